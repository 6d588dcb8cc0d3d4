// SPDX-License-Identifier: Apache-2.0
//
// The verilated machine with a bus partner at each of its ports, as a shared library for sim/simulator.py.
//
// Every partner acts once a cycle: drive() sets the machine's inputs, and after they have settled sample()
// sees what the rising edge will see. Calls post work to the partners; openese_run() turns the clock until
// the work is done. Nothing here knows the machine's capacity: widths come from the verilated ports, whose
// memory is little-endian whatever their width. A beat is the bytes of its port, which Python packs.

#include "Vopenese.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif
#if VM_COVERAGE
#include "verilated_cov.h"
#include <cstdlib>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <list>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr uint64_t HALF_PERIOD = 2500;  // of the trace, in ps: 200 MHz

template <typename... Values>
std::string format(const char* pattern, Values... values) {
    char text[200];
    std::snprintf(text, sizeof text, pattern, values...);
    return text;
}

const char* response_name(unsigned response) {
    static const char* const names[] = {"OKAY", "EXOKAY", "SLVERR", "DECERR"};
    return names[response & 3];
}

// Decides in which cycles a partner is willing: xorshift64*, against a share of all cycles.
class Pace {
public:
    void set(uint64_t seed, double share) {
        state_ = seed * 0x9E3779B97F4A7C15u | 1;
        threshold_ = static_cast<uint64_t>(std::clamp(share, 0.0, 1.0) * 4294967296.0);
    }
    bool willing() { return threshold_ >> 32 || (next() >> 32) < threshold_; }
    uint64_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545F4914F6CDD1Du;
    }

private:
    uint64_t state_ = 1;
    uint64_t threshold_ = uint64_t{1} << 32;
};

struct Paces {
    Pace valid;  // of what a partner sends
    Pace ready;  // of what it takes
};

// AXI4-Lite writes of a row of words to one address, as many under way as the machine takes.
struct Writer {
    uint32_t address = 0;
    std::vector<uint32_t> words;
    size_t addressed = 0, written = 0, answered = 0;
    bool addressing = false, writing = false, answering = false;
    size_t refused = 0;  // 1 + the first word whose answer was not OKAY
    unsigned response = 0;

    bool done() const { return answered == words.size(); }

    void drive(Vopenese& top, Paces& paces) {
        addressing = addressing || (addressed < words.size() && paces.valid.willing());
        writing = writing || (written < words.size() && paces.valid.willing());
        answering = !done() && paces.ready.willing();
        top.s_axi_awvalid = addressing;
        top.s_axi_awaddr = address;
        top.s_axi_wvalid = writing;
        top.s_axi_wdata = writing ? words[written] : 0;
        top.s_axi_wstrb = 15;
        top.s_axi_bready = answering;
    }

    bool sample(const Vopenese& top) {
        const bool before = addressing || writing;
        if (addressing && top.s_axi_awready) addressing = false, ++addressed;
        if (writing && top.s_axi_wready) writing = false, ++written;
        const bool answer = answering && top.s_axi_bvalid;
        if (answer) {
            ++answered;
            if (top.s_axi_bresp && !refused) refused = answered, response = top.s_axi_bresp;
        }
        return answer || (before && !(addressing && writing));
    }

    std::string waiting() const {
        return format("write %zu of %zu to 0x%03x waits for %s", answered + 1, words.size(), address,
                      addressing ? "s_axi_awready" : writing ? "s_axi_wready" : "s_axi_bvalid");
    }
};

// AXI4-Lite reads of one address, one at a time.
struct Reader {
    uint32_t address = 0;
    size_t wanted = 0;
    std::vector<uint32_t> values;
    size_t refused = 0;  // 1 + the first read whose answer was not OKAY
    unsigned response = 0;
    bool addressing = false, answering = false, addressed = false;

    bool done() const { return values.size() == wanted; }

    void drive(Vopenese& top, Paces& paces) {
        addressing = addressing || (!done() && !addressed && paces.valid.willing());
        answering = !done() && paces.ready.willing();
        top.s_axi_arvalid = addressing;
        top.s_axi_araddr = address;
        top.s_axi_rready = answering;
    }

    bool sample(const Vopenese& top) {
        const bool taken = addressing && top.s_axi_arready;
        if (taken) addressing = false, addressed = true;
        const bool answer = answering && top.s_axi_rvalid;
        if (answer) {
            values.push_back(top.s_axi_rdata);
            addressed = false;
            if (top.s_axi_rresp && !refused) refused = values.size(), response = top.s_axi_rresp;
        }
        return taken || answer;
    }

    std::string waiting() const {
        return format("read %zu of %zu of 0x%03x waits for %s", values.size() + 1, wanted, address,
                      addressed ? "s_axi_rvalid" : "s_axi_arready");
    }
};

constexpr size_t BEAT = sizeof(std::declval<Vopenese&>().s_axis_tdata);

// Beats of a stream, `BEAT` bytes each.
struct Beats {
    std::vector<uint8_t> bytes;
    std::vector<uint8_t> last;

    size_t size() const { return last.size(); }
    void drop(size_t count) {
        bytes.erase(bytes.begin(), bytes.begin() + count * BEAT);
        last.erase(last.begin(), last.begin() + count);
    }
};

// Sends frames to s_axis.
struct Source {
    Beats beats;
    size_t sent = 0, frame = 0, column = 0;
    bool offered = false;

    bool done() const { return sent == beats.size(); }

    void post(const uint8_t* bytes, const uint8_t* last, size_t count) {
        if (!offered) {
            beats.drop(sent);
            sent = 0;
        }
        beats.bytes.insert(beats.bytes.end(), bytes, bytes + count * BEAT);
        beats.last.insert(beats.last.end(), last, last + count);
    }

    // Gives up the frames that have not begun.
    void forget() {
        size_t end = sent;
        if (column || offered)
            while (end < beats.size() && !beats.last[end++]) {}
        beats.bytes.resize(end * BEAT);
        beats.last.resize(end);
    }

    void drive(Vopenese& top, Paces& paces) {
        offered = offered || (!done() && paces.valid.willing());
        top.s_axis_tvalid = offered;
        if (!offered) return;
        std::memcpy(&top.s_axis_tdata, &beats.bytes[sent * BEAT], BEAT);
        top.s_axis_tlast = beats.last[sent];
    }

    bool sample(const Vopenese& top) {
        if (!offered || !top.s_axis_tready) return false;
        offered = false;
        const bool last = beats.last[sent++];
        frame += last;
        column = last ? 0 : column + 1;
        return true;
    }

    std::string waiting() const {
        if (done()) return format("%zu frames sent", frame);
        return format("frame %zu, beat %zu in waits for s_axis_tready", frame, column);
    }
};

// Takes frames from m_axis, and checks that an offered beat stays until it is taken.
struct Sink {
    Beats beats;
    size_t frames = 0;  // complete ones among the beats
    size_t total = 0;   // since reset
    bool ready = false, held = false;
    std::vector<uint8_t> offered = std::vector<uint8_t>(BEAT);
    uint8_t offered_last = 0;
    std::string fault;

    void drive(Vopenese& top, Paces& paces) {
        ready = paces.ready.willing();
        top.m_axis_tready = ready;
    }

    bool sample(const Vopenese& top) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(&top.m_axis_tdata);
        if (held && !(top.m_axis_tvalid && top.m_axis_tlast == offered_last
                      && std::equal(bytes, bytes + BEAT, offered.begin())))
            fault = "m_axis: an offered beat changed before it was taken";
        held = top.m_axis_tvalid && !ready;
        if (held) {
            std::copy(bytes, bytes + BEAT, offered.begin());
            offered_last = top.m_axis_tlast;
        }
        if (!top.m_axis_tvalid || !ready) return false;
        beats.bytes.insert(beats.bytes.end(), bytes, bytes + BEAT);
        beats.last.push_back(top.m_axis_tlast);
        frames += top.m_axis_tlast;
        total += top.m_axis_tlast;
        return true;
    }

    // Beats of the first `count` complete frames.
    size_t length(size_t count) const {
        size_t beat = 0;
        for (; count && beat < beats.size(); ++beat) count -= beats.last[beat];
        return beat;
    }

    std::string waiting() const {
        return format("frame %zu, beat %zu out waits for m_axis_tvalid", total, beats.size() - length(frames));
    }
};

// What the memory behind m_axi holds and how it behaves; as in sim/simulator.py.
struct MemoryTraits {
    const uint8_t* data;
    uint64_t base, size;
    uint32_t latency, jitter, outstanding, interleave;
    double share;
    uint64_t seed;
    uint64_t error_start, error_stop;
    uint64_t last_start, last_stop;
};

// The memory behind m_axi: bursts answered after a latency, in order for each identity, and over identities
// in any order where they may interleave. Checks what AXI4 asks of a burst.
class Memory {
public:
    std::string fault;

    void set(const MemoryTraits& traits) {
        traits_ = traits;
        share_.set(traits.seed, traits.share);
        random_.set(traits.seed + 1, 1);
    }

    void reset() {
        requests_.clear();
        offered_ = nullptr;
        fault.clear();
    }

    template <typename T>
    void drive(T& top, uint64_t cycle) {
        accepting_ = requests_.size() < traits_.outstanding;
        top.m_axi_arready = accepting_;
        if (!offered_ && share_.willing()) offered_ = choose(cycle);
        top.m_axi_rvalid = offered_ != nullptr;
        if (!offered_) return;
        top.m_axi_rid = offered_->identity;
        top.m_axi_rlast = (offered_->beats == 1) != wrong_last(offered_->address);
        top.m_axi_rresp = response(offered_->address, sizeof top.m_axi_rdata);
        if (top.m_axi_rresp)
            std::memset(&top.m_axi_rdata, 0xa5, sizeof top.m_axi_rdata);
        else
            std::memcpy(&top.m_axi_rdata, traits_.data + (offered_->address - traits_.base),
                        sizeof top.m_axi_rdata);
    }

    template <typename T>
    void sample(const T& top, uint64_t cycle) {
        if (offered_ && top.m_axi_rready) {
            offered_->address += sizeof top.m_axi_rdata;
            if (!--offered_->beats) requests_.remove_if([this](const Request& r) { return &r == offered_; });
            offered_ = nullptr;
        }
        if (accepting_ && top.m_axi_arvalid) accept(top, cycle);
    }

private:
    struct Request {
        uint64_t address, due;
        uint32_t identity, beats;
    };

    template <typename T>
    void accept(const T& top, uint64_t cycle) {
        constexpr uint64_t bytes = sizeof top.m_axi_rdata;
        const uint64_t address = top.m_axi_araddr, length = (top.m_axi_arlen + 1) * bytes;
        if (uint64_t{1} << top.m_axi_arsize != bytes || top.m_axi_arburst != 1)
            fault = "m_axi: only incrementing bursts as wide as the bus are served";
        else if (address % bytes)
            fault = format("m_axi: burst at 0x%llx is not aligned to %llu bytes", (unsigned long long)address,
                           (unsigned long long)bytes);
        else if (address / 4096 != (address + length - 1) / 4096)
            fault = format("m_axi: burst of %u beats at 0x%llx crosses 4 KiB", top.m_axi_arlen + 1u,
                           (unsigned long long)address);
        const uint64_t jitter = traits_.jitter ? random_.next() % (traits_.jitter + 1) : 0;
        requests_.push_back({address, cycle + traits_.latency + jitter, top.m_axi_arid, top.m_axi_arlen + 1u});
    }

    // The request that gives the next beat: of the oldest of each identity one that is due, or none.
    Request* choose(uint64_t cycle) {
        std::vector<Request*> due;
        std::vector<uint32_t> seen;
        for (Request& request : requests_) {
            if (std::find(seen.begin(), seen.end(), request.identity) != seen.end()) continue;
            seen.push_back(request.identity);
            if (request.due <= cycle) due.push_back(&request);
            if (!traits_.interleave) break;
        }
        return due.empty() ? nullptr : due[random_.next() % due.size()];
    }

    unsigned response(uint64_t address, uint64_t bytes) const {
        if (address < traits_.base || address + bytes > traits_.base + traits_.size) return 3;
        return address < traits_.error_stop && address + bytes > traits_.error_start ? 2 : 0;
    }

    bool wrong_last(uint64_t address) const {
        return traits_.last_start <= address && address < traits_.last_stop;
    }

    MemoryTraits traits_{};
    Pace share_, random_;
    std::list<Request> requests_;
    Request* offered_ = nullptr;
    bool accepting_ = false;
};

template <typename T, typename = void>
constexpr bool has_memory = false;
template <typename T>
constexpr bool has_memory<T, std::void_t<decltype(std::declval<T&>().m_axi_arvalid)>> = true;

enum Goal { CYCLES, WRITTEN, READ, SENT, RECEIVED };
enum Outcome { DONE, UNDER_WAY, STUCK, FAULT };

class Machine {
public:
    explicit Machine(uint64_t scramble) {
        context_.randReset(scramble ? 2 : 0);
        context_.randSeed(static_cast<int>(scramble));
        context_.traceEverOn(VM_TRACE);
        top_ = std::make_unique<Vopenese>(&context_);
#if VM_TRACE
        top_->trace(&trace_, 99);
#endif
    }

    ~Machine() {
        Verilated::threadContextp(&context_);  // in which the model looks itself up; it may be another machine's
        trace(nullptr, "");
        top_->final();
        count();
    }

    // Drops all posted work; the machine is in reset until told otherwise.
    void reset(bool asserted) {
        top_->aresetn = !asserted;
        writer = {};
        reader = {};
        source = {};
        sink = {};
        memory.reset();
    }

    void pace(uint64_t seed, double valid, double ready) {
        for (Paces* paces : {&lite_, &stream_}) {
            paces->valid.set(seed++, valid);
            paces->ready.set(seed++, ready);
        }
    }

    Outcome run(Goal goal, size_t count, uint64_t limit, uint64_t patience) {
        const Outcome outcome = advance(goal, count, limit, patience);
        if (outcome != UNDER_WAY || goal == CYCLES) lite_progress_ = stream_progress_ = cycles;
        return outcome;
    }

    // What the posted work waits for, or which rule of a bus the machine has broken.
    std::string waiting(Goal goal) const {
        if (!fault().empty()) return fault();
        if (goal == WRITTEN) return writer.waiting();
        if (goal == READ) return reader.waiting();
        return goal == SENT ? source.waiting() : source.waiting() + "; " + sink.waiting();
    }

    // All signals, or those whose names are given, with a space behind each.
    void trace(const char* path, std::string names) {
#if VM_TRACE
        if (trace_.isOpen()) trace_.close();
        if (!path) return;
        trace_.dumpvars(0, "");
        for (size_t end; (end = names.find(' ')) != std::string::npos; names.erase(0, end + 1))
            trace_.dumpvars(1, names.substr(0, end));
        trace_.open(path);
#else
        (void)path, (void)names;
#endif
    }

    bool irq() const { return top_->irq; }

    Writer writer;
    Reader reader;
    Source source;
    Sink sink;
    Memory memory;
    uint64_t cycles = 0;
    std::string message;  // keeps what openese_waiting() returned

private:
    Outcome advance(Goal goal, size_t count, uint64_t limit, uint64_t patience) {
        while (fault().empty()) {
            if (reached(goal, count)) return DONE;
            if (!limit--) return UNDER_WAY;
            if (goal != CYCLES && cycles - progress(goal) >= patience) return STUCK;
            tick();
        }
        return FAULT;
    }

    void tick() {
        writer.drive(*top_, lite_);
        reader.drive(*top_, lite_);
        source.drive(*top_, stream_);
        sink.drive(*top_, stream_);
        if constexpr (has_memory<Vopenese>) memory.drive(*top_, cycles);
        edge(0);
        if (top_->aresetn) {
            if (writer.sample(*top_) | reader.sample(*top_)) lite_progress_ = cycles;
            if (source.sample(*top_) | sink.sample(*top_)) stream_progress_ = cycles;
            if constexpr (has_memory<Vopenese>) memory.sample(*top_, cycles);
        }
        edge(1);
        ++cycles;
    }

    // How often each line ran, in a file of its own whose name begins with $OPENESE_COVERAGE.
    void count() {
#if VM_COVERAGE
        static int number = 0;
        const char* const prefix = std::getenv("OPENESE_COVERAGE");
        context_.coveragep()->write((prefix ? prefix : "") + format("%d-%d.dat", getpid(), number++));
#endif
    }

    void edge(bool level) {
        top_->aclk = level;
        top_->eval();
#if VM_TRACE
        if (trace_.isOpen()) trace_.dump((2 * cycles + level) * HALF_PERIOD);
#endif
    }

    bool reached(Goal goal, size_t count) const {
        switch (goal) {
            case WRITTEN: return writer.done();
            case READ: return reader.done();
            case SENT: return source.done();
            case RECEIVED: return sink.frames >= count;
            default: return false;
        }
    }

    uint64_t progress(Goal goal) const {
        return goal == WRITTEN || goal == READ ? lite_progress_ : stream_progress_;
    }

    const std::string& fault() const { return sink.fault.empty() ? memory.fault : sink.fault; }

    VerilatedContext context_;
    std::unique_ptr<Vopenese> top_;
#if VM_TRACE
    VerilatedVcdC trace_;
#endif
    Paces lite_, stream_;
    uint64_t lite_progress_ = 0, stream_progress_ = 0;  // cycle in which a handshake was last seen
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

uint32_t openese_beat() { return BEAT; }
uint32_t openese_has_memory() { return has_memory<Vopenese>; }

Machine* openese_create(uint64_t scramble) { return new Machine(scramble); }
void openese_destroy(Machine* machine) { delete machine; }

void openese_reset(Machine* machine, int asserted) { machine->reset(asserted); }
void openese_pace(Machine* machine, uint64_t seed, double valid, double ready) {
    machine->pace(seed, valid, ready);
}
uint64_t openese_cycles(const Machine* machine) { return machine->cycles; }
int openese_irq(const Machine* machine) { return machine->irq(); }
void openese_trace(Machine* machine, const char* path, const char* names) { machine->trace(path, names); }

void openese_write(Machine* machine, uint32_t address, const uint32_t* words, size_t count) {
    machine->writer = {};
    machine->writer.address = address;
    machine->writer.words.assign(words, words + count);
}

// The answer to the posted writes: 0, or 1 + the first word that was refused.
size_t openese_refused(const Machine* machine) { return machine->writer.refused; }

void openese_read(Machine* machine, uint32_t address, size_t count) {
    machine->reader = {};
    machine->reader.address = address;
    machine->reader.wanted = count;
}

// The answer to the posted reads: 0, or 1 + the first that was refused.
size_t openese_read_refused(const Machine* machine) { return machine->reader.refused; }

void openese_values(const Machine* machine, uint32_t* values) {
    std::copy(machine->reader.values.begin(), machine->reader.values.end(), values);
}

// "OKAY" unless the last write or read was refused.
const char* openese_response(const Machine* machine, int reading) {
    return response_name(reading ? machine->reader.response : machine->writer.response);
}

void openese_send(Machine* machine, const uint8_t* bytes, const uint8_t* last, size_t count) {
    machine->source.post(bytes, last, count);
}

void openese_forget(Machine* machine, int received) {
    if (received) {
        machine->sink.beats = {};
        machine->sink.frames = 0;
    } else {
        machine->source.forget();
    }
}

// Beats of the first `frames` frames that were received.
size_t openese_length(const Machine* machine, size_t frames) { return machine->sink.length(frames); }

void openese_take(Machine* machine, size_t count, uint8_t* bytes, uint8_t* last) {
    Sink& sink = machine->sink;
    std::copy_n(sink.beats.bytes.begin(), count * BEAT, bytes);
    std::copy_n(sink.beats.last.begin(), count, last);
    sink.frames -= std::count(last, last + count, 1);
    sink.beats.drop(count);
}

void openese_memory(Machine* machine, const MemoryTraits* traits) { machine->memory.set(*traits); }

// Turns the clock until the goal is reached, at most `limit` cycles; see Outcome. `count` is the number of
// frames to have received. STUCK when the ports of the goal have not moved for `patience` cycles.
int openese_run(Machine* machine, int goal, size_t count, uint64_t limit, uint64_t patience) {
    return machine->run(static_cast<Goal>(goal), count, limit, patience);
}

const char* openese_waiting(Machine* machine, int goal) {
    machine->message = machine->waiting(static_cast<Goal>(goal));
    return machine->message.c_str();
}

}  // extern "C"
#pragma GCC visibility pop
