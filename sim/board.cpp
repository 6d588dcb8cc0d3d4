// SPDX-License-Identifier: Apache-2.0
//
// A verilated board whose serial port is a file descriptor: ulx3s DESCRIPTOR PANEL DIVISOR FAST_DIVISOR
//
// What can be read from the descriptor goes to the pin rx, bit by bit, DIVISOR cycles each, or FAST_DIVISOR where the first
// switch is on; what comes from tx is written to it. The switch and the counters of the line are a Panel in the file
// PANEL, a descriptor too. Runs until the first descriptor is closed.

#include "Vulx3s.h"
#include "verilated.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr unsigned BITS = 10;              // start, eight of data, stop
constexpr unsigned LOOK = 256;             // cycles between two looks at the descriptor
constexpr uint64_t PATIENCE = 4'000'000;   // cycles without a byte, after which time need not be wasted
constexpr int NAP = 2;                     // ms
constexpr uint8_t END = 0xC0;              // before and after a packet

struct Panel {
    uint64_t fast;      // the first switch; obeyed while nothing is under way
    uint64_t cycles;    // from the first bit of each request to the last of its answer
    uint64_t in, out;   // bytes
};

// Follows the bytes of one direction from packet to packet.
class Packets {
public:
    // Whether the byte ends a packet.
    bool take(uint8_t byte) {
        const bool ends = byte == END && within_;
        within_ = byte != END;
        return ends;
    }

private:
    bool within_ = false;
};

class Sender {
public:
    explicit Sender(unsigned divisor) : divisor_(divisor) {}
    void pace(unsigned divisor) { divisor_ = divisor; }
    bool idle() const { return !left_; }
    void send(uint8_t byte) { bits_ = 1u << 9 | unsigned{byte} << 1; left_ = BITS * divisor_; }
    bool level() {
        if (!left_) return true;
        const bool now = bits_ >> (BITS - 1 - (left_ - 1) / divisor_) & 1;
        --left_;
        return now;
    }

private:
    unsigned divisor_, bits_ = 0, left_ = 0;
};

class Receiver {
public:
    explicit Receiver(unsigned divisor) : divisor_(divisor) {}
    void pace(unsigned divisor) { divisor_ = divisor; }
    // Whether a byte is complete.
    bool take(bool level) {
        if (!busy_) {
            if (!level) busy_ = true, at_ = 0, bits_ = 0;
            return false;
        }
        if (++at_ % divisor_ == divisor_ / 2) bits_ = bits_ >> 1 | unsigned{level} << 9;
        if (at_ < (BITS - 1) * divisor_ + divisor_ / 2) return false;
        busy_ = false;
        return bits_ >> 9 & 1;
    }
    uint8_t byte() const { return bits_ >> 1 & 0xFF; }

private:
    unsigned divisor_, at_ = 0, bits_ = 0;
    bool busy_ = false;
};

}  // namespace

int main(int count, char** arguments) {
    if (count != 5) return 2;
    const int line = std::atoi(arguments[1]);
    void* const mapped = mmap(nullptr, sizeof(Panel), PROT_READ | PROT_WRITE, MAP_SHARED, std::atoi(arguments[2]), 0);
    if (mapped == MAP_FAILED) return 2;
    volatile Panel& panel = *static_cast<Panel*>(mapped);
    const unsigned divisors[] = {unsigned(std::atoi(arguments[3])), unsigned(std::atoi(arguments[4]))};
    fcntl(line, F_SETFL, fcntl(line, F_GETFL) | O_NONBLOCK);

    Vulx3s board;
    Sender sender(divisors[0]);
    Receiver receiver(divisors[0]);
    Packets requests, answers;
    bool under_way = false, asked = true;  // is there a request that is not answered; is it in?
    std::string in, out;
    size_t taken = 0;
    uint64_t quiet = 0;
    board.rx = 1;
    for (uint64_t cycle = 0;; ++cycle) {
        if (cycle % LOOK == 0) {
            if (!under_way) {
                board.dip = panel.fast;
                sender.pace(divisors[board.dip]);
                receiver.pace(divisors[board.dip]);
            }
            if (!out.empty()) {
                const ssize_t written = write(line, out.data(), out.size());
                if (written > 0) out.erase(0, written);
            }
            if (taken == in.size()) {
                if (quiet > PATIENCE) {
                    pollfd descriptor{line, POLLIN, 0};
                    poll(&descriptor, 1, NAP);
                }
                char buffer[4096];
                const ssize_t found = read(line, buffer, sizeof buffer);
                if (found == 0 || (found < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) return 0;
                in.assign(buffer, found > 0 ? found : 0);
                taken = 0;
            }
        }
        if (sender.idle() && taken < in.size()) {
            const uint8_t byte = in[taken++];
            sender.send(byte);
            asked = requests.take(byte);
            under_way = true;
            quiet = 0;
            panel.in = panel.in + 1;
        }
        if (under_way && (asked || !sender.idle())) panel.cycles = panel.cycles + 1;
        board.clk25 = 0;
        board.rx = sender.level();
        board.eval();
        board.clk25 = 1;
        board.eval();
        ++quiet;
        if (receiver.take(board.tx)) {
            out.push_back(receiver.byte());
            if (answers.take(receiver.byte())) under_way = false;
            quiet = 0;
            panel.out = panel.out + 1;
        }
    }
}
