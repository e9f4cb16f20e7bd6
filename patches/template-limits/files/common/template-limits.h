#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

// A chat template is a program out of a model's file. It may take so many steps, and nest so deep, in one rendering.
// The counts are of the thread: templates are rendered on one, and do not wait for others.
class common_template_step {
public:
    static constexpr int64_t MAX_STEPS = 1 << 20; // a second or more; a message takes a real template up to a hundred
    static constexpr int64_t MAX_DEPTH = 1000;    // fits in a thread's usual stack, 8 MiB
    static constexpr size_t  STEP_BYTES = 256;    // of text that is made

    common_template_step() {
        count & now = counts();
        if (now.depth >= MAX_DEPTH) {
            throw std::runtime_error("the chat template calls itself too often, or nests too deep");
        }
        if (now.depth == 0) {
            now.steps = 0;
            now.over  = false;
        }
        spend(1); // throws before this level is counted
        now.depth++;
    }
    ~common_template_step() {
        count & now = counts();
        if (--now.depth == 0) {
            // A template is rendered a dozen times to find out what it can do: these need not all take as long.
            now.limit = now.over ? std::max(now.limit/2, MAX_STEPS/64) : MAX_STEPS;
        }
    }

    common_template_step(const common_template_step &) = delete;
    common_template_step & operator=(const common_template_step &) = delete;

    // What is made in one step: elements of a list.
    static void spend(int64_t n) {
        count & now = counts();
        if ((now.steps += n) > now.limit) {
            now.over = true;
            throw std::runtime_error("the chat template does not come to an end, or makes too much text");
        }
    }
    // `b`, if the processor can divide `a` by it.
    static int64_t divisor(int64_t a, int64_t b) {
        if (b == 0 || (b == -1 && a == INT64_MIN)) {
            throw std::runtime_error("the chat template divides by zero, or too large a number by -1");
        }
        return b;
    }
    // Whether an error of so many characters may say where it came through: each level of nesting adds to it.
    static bool more_words(int64_t n) { return n < 4096; }
    static void spend_bytes(size_t n) { spend((int64_t) (n/STEP_BYTES)); }

private:
    struct count {
        int64_t depth = 0;
        int64_t steps = 0;
        int64_t limit = MAX_STEPS;
        bool    over  = false;
    };
    static count & counts() {
        static thread_local count now;
        return now;
    }
};
