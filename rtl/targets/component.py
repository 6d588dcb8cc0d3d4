# SPDX-License-Identifier: Apache-2.0
"""The IP-XACT description (IEEE 1685-2009, for Vivado) of the machine's ports, buses, registers and files."""

from xml.etree import ElementTree

from openese.rtl.registers import Access, registers
from openese.rtl.targets.buses import buses, ports
from openese.rtl.targets.vivado import ACCESS, CORE, DEVICE_FAMILIES, core, parameters
from openese.rtl.top import ADDRESS_WIDTH
from openese.rtl.verilog import TOP

__all__ = ["component", "user_interface"]

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"

_SYNTHESIS = "xilinx_anylanguagesynthesis"
_SIMULATION = "xilinx_anylanguagebehavioralsimulation"
_DRIVER = "xilinx_softwaredriver"
_USER_INTERFACE = "xilinx_xpgui"


def _element(tag, *children, text=None, **attributes):
    """An element of the namespace ``spirit``, or of ``xilinx`` if ``tag`` has the prefix ``xilinx_x_``."""
    def qualified(name):
        prefix, _, local = name.rpartition("_x_")
        return f"{{{XILINX if prefix == 'xilinx' else SPIRIT}}}{local}"

    element = ElementTree.Element(qualified(tag), {qualified(name): value for name, value in attributes.items()})
    element.text = text
    element.extend(children)
    return element


def _text(tag, text, **attributes):
    return _element(tag, text=str(text), **attributes)


def _named(tag, name, *children):
    return _element(tag, _text("name", name), *children)


def _bus(bus):
    definition = {"vendor": "xilinx.com", "library": bus.library, "version": "1.0"}
    side = _element("master" if bus.master else "slave")
    if bus.kind == "aximm":
        reference = "addressSpaceRef" if bus.master else "memoryMapRef"
        side.append(_element(reference, **{reference: bus.name}))
    maps = [_element("portMap", _element("logicalPort", _text("name", logical)),
                     _element("physicalPort", _text("name", physical))) for logical, physical in bus.ports.items()]
    values = [_named("parameter", name, _text("value", value, id=f"BUSIFPARAM_VALUE.{bus.name.upper()}.{name}"))
              for name, value in bus.parameters.items()]
    return _named("busInterface", bus.name, _element("busType", name=bus.kind, **definition),
                  _element("abstractionType", name=f"{bus.kind}_rtl", **definition), side,
                  _element("portMaps", *maps), _element("parameters", *values))


def _access(register):
    return _text("access", ACCESS[register.access])


def _field(field, register):
    clears = [_text("modifiedWriteValue", "oneToClear")] if register.access is Access.CLEAR else []
    return _named("field", field.name, _text("description", field.text), _text("bitOffset", field.low),
                  _text("bitWidth", field.width, format="long"), _access(register), *clears)


def _register(register):
    description = [_text("description", register.text)] if register.text else []
    return _named("register", register.name, *description, _text("addressOffset", f"0x{register.address:03X}"),
                  _text("size", 32, format="long"), _access(register),
                  *(_field(field, register) for field in register.fields))


def _memory_map(config):
    block = _named("addressBlock", "registers", _text("baseAddress", 0, format="long"),
                   _text("range", 1 << ADDRESS_WIDTH, format="long"), _text("width", 32, format="long"),
                   _text("usage", "register"), _text("access", "read-write"), *map(_register, registers(config)))
    return _named("memoryMap", "s_axi", block)


def _address_space(bus):
    return _named("addressSpace", bus.name, _text("range", 1 << int(bus.parameters["ADDR_WIDTH"])),
                  _text("width", bus.parameters["DATA_WIDTH"], format="long"))


def _port(port):
    vector = _element("vector", _text("left", port.width - 1, format="long"), _text("right", 0, format="long"))
    kind = _element("wireTypeDef", _text("typeName", "wire"),
                    *(_text("viewNameRef", view) for view in (_SYNTHESIS, _SIMULATION)))
    return _named("port", port.name, _element("wire", _text("direction", port.direction),
                                              *([vector] if port.width > 1 else []),
                                              _element("wireTypeDefs", kind)))


def _view(name, title, environment, verilog=False):
    return _named("view", name, _text("displayName", title),
                  _text("envIdentifier", f":vivado.xilinx.com:{environment}"),
                  *([_text("language", "Verilog"), _text("modelName", TOP)] if verilog else []),
                  _element("fileSetRef", _text("localName", f"{name}_view_fileset")))


def _file(path, kind, *user, late=False):
    # IP-XACT defines these types; Vivado defines others.
    known = kind in ("verilogSource", "tclSource", "cSource", "unknown")
    kinds = [_text("fileType" if known else "userFileType", kind), *(_text("userFileType", word) for word in user)]
    order = _named("define", "processing_order", _text("value", "late"))
    return _named("file", path, *kinds, *([order] if late else []))


def _file_sets(driver_types):
    def verilog():
        return _file(f"hdl/{TOP}.v", "verilogSource")

    sets = {
        _SYNTHESIS: [
            _file("constraints/openese_ooc.xdc", "xdc", "USED_IN_synthesis", "USED_IN_implementation",
                  "USED_IN_out_of_context"),
            _file("constraints/openese.xdc", "xdc", late=True), verilog()],
        _SIMULATION: [verilog()],
        _DRIVER: [_file(path, kind) for path, kind in driver_types.items()],
        _USER_INTERFACE: [_file(f"xgui/{_identifier()}.tcl", "tclSource", "XGUI_VERSION_2")],
    }
    return [_named("fileSet", f"{name}_view_fileset", *members) for name, members in sets.items()]


def _parameters(config):
    elements = []
    for order, (name, (kind, value)) in enumerate(parameters(config).items(), 2):
        length = {"bitStringLength": "32"} if kind == "bitString" else {}
        fixed = _element("xilinx_x_isEnabled", text="false", **{"xilinx_x_id": f"PARAM_ENABLEMENT.{name}"})
        elements.append(_named(
            "parameter", name,
            _text("value", value, format=kind, resolve="user", id=f"PARAM_VALUE.{name}", order=str(order), **length),
            _element("vendorExtensions", _element("xilinx_x_parameterInfo",
                                                  _element("xilinx_x_enablement", fixed)))))
    component_name = _text("value", _identifier(), resolve="user", id="PARAM_VALUE.Component_Name", order="1")
    return [*elements, _named("parameter", "Component_Name", component_name)]


def _extensions(config):
    about = core(config)
    families = [_element("xilinx_x_family", text=family, **{"xilinx_x_lifeCycle": "Beta"})
                for family in DEVICE_FAMILIES]
    return _element("vendorExtensions", _element(
        "xilinx_x_coreExtensions",
        _element("xilinx_x_supportedFamilies", *families),
        _element("xilinx_x_taxonomies", _text("xilinx_x_taxonomy", about["taxonomy"])),
        _text("xilinx_x_displayName", about["display_name"]),
        _text("xilinx_x_vendorDisplayName", about["vendor_display_name"]),
        _text("xilinx_x_vendorURL", about["company_url"]),
        _text("xilinx_x_coreRevision", 1)))


def component(config, driver_types):
    """Text of ``component.xml``.

    Parameters
    ----------
    config : Config
    driver_types : dict
        The driver's files: type by path.
    """
    about = core(config)
    interfaces = buses(config)
    spaces = [_address_space(bus) for bus in interfaces.values() if bus.kind == "aximm" and bus.master]
    views = [_view(_SYNTHESIS, "Synthesis", "synthesis", True), _view(_SIMULATION, "Simulation", "simulation", True),
             _view(_DRIVER, "Software Driver", "sw.driver"), _view(_USER_INTERFACE, "UI Layout", "xgui.ui")]
    root = _element(
        "component",
        *(_text(part, about[part]) for part in ("vendor", "library", "name", "version")),
        _element("busInterfaces", *map(_bus, interfaces.values())),
        *([_element("addressSpaces", *spaces)] if spaces else []),
        _element("memoryMaps", _memory_map(config)),
        _element("model", _element("views", *views), _element("ports", *map(_port, ports(config)))),
        _element("fileSets", *_file_sets(driver_types)),
        _text("description", about["description"]),
        _element("parameters", *_parameters(config)),
        _extensions(config))
    ElementTree.register_namespace("spirit", SPIRIT)
    ElementTree.register_namespace("xilinx", XILINX)
    ElementTree.indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!-- SPDX-License-Identifier: Apache-2.0 -->\n'
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"


def _identifier():
    """The core's name and version, joined as Vivado does it."""
    return f"{CORE['name']}_v{CORE['version'].replace('.', '_')}"


def user_interface(config):
    """The script that shows the parameters in Vivado: its text by its path."""
    names = parameters(config)
    lines = ["# SPDX-License-Identifier: Apache-2.0", "proc init_gui {IPINST} {",
             '  ipgui::add_param $IPINST -name "Component_Name"',
             '  set page [ipgui::add_page $IPINST -name "Configuration"]',
             *(f'  ipgui::add_param $IPINST -name "{name}" -parent $page' for name in names), "}"]
    for name in names:
        value = f"PARAM_VALUE.{name}"
        lines += ["", f"proc update_{value} {{{value}}} {{", "}", "", f"proc validate_{value} {{{value}}} {{",
                  "  return true", "}"]
    return {f"xgui/{_identifier()}.tcl": "\n".join(lines) + "\n"}
