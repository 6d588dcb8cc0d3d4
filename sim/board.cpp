// SPDX-License-Identifier: Apache-2.0
//
// A verilated board whose serial port is a file descriptor: ulx3s DESCRIPTOR DIVISOR DIP
//
// What can be read from the descriptor goes to the pin rx, bit by bit, DIVISOR cycles each; what comes from tx is written
// to it. DIP is the first switch. Runs until the descriptor is closed.

#include "Vulx3s.h"
#include "verilated.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <unistd.h>

namespace {

constexpr unsigned BITS = 10;              // start, eight of data, stop
constexpr unsigned LOOK = 256;             // cycles between two looks at the descriptor
constexpr uint64_t PATIENCE = 4'000'000;   // cycles without a byte, after which time need not be wasted
constexpr int NAP = 2;                     // ms

class Sender {
public:
    explicit Sender(unsigned divisor) : divisor_(divisor) {}
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
    if (count != 4) return 2;
    const int line = std::atoi(arguments[1]);
    const unsigned divisor = std::atoi(arguments[2]);
    fcntl(line, F_SETFL, fcntl(line, F_GETFL) | O_NONBLOCK);

    Vulx3s board;
    Sender sender(divisor);
    Receiver receiver(divisor);
    std::string in, out;
    size_t taken = 0;
    uint64_t quiet = 0;
    board.rx = 1;
    board.dip = std::atoi(arguments[3]);
    for (uint64_t cycle = 0;; ++cycle) {
        if (cycle % LOOK == 0) {
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
        if (sender.idle() && taken < in.size()) sender.send(in[taken++]), quiet = 0;
        board.clk25 = 0;
        board.rx = sender.level();
        board.eval();
        board.clk25 = 1;
        board.eval();
        ++quiet;
        if (receiver.take(board.tx)) out.push_back(receiver.byte()), quiet = 0;
    }
}
