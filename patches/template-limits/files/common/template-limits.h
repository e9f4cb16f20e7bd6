#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <utility>
#include <vector>

// A chat template is a program out of a model's file. It may take so many steps, and nest so deep, in one rendering.
// The counts are of the thread: templates are rendered on one, and do not wait for others.
class common_template_step {
public:
    static constexpr int64_t MAX_STEPS = 1 << 20; // a second or more; a message takes a real template up to a hundred
    static constexpr int64_t MAX_DEPTH = 1000;    // fits in a thread's usual stack, 8 MiB
    static constexpr int64_t MAX_NODES = 1 << 15; // of its syntax tree: a chain of operators is as deep as it is long

    common_template_step() {
        count & now = counts();
        if (now.depth >= MAX_DEPTH) {
            throw std::runtime_error("the chat template calls itself too often, or nests too deep");
        }
        if (now.depth == 0) {
            now.spent = 0;
            now.over  = false;
            now.depth = 1;
        } else {
            spend(STEP); // throws before this level is counted
            now.depth++;
        }
    }
    ~common_template_step() {
        count & now = counts();
        if (--now.depth == 0) {
            // A template is rendered a dozen times to find out what it can do: these need not all take as long.
            now.limit = now.scopes == 0 ? LIMIT : now.over ? std::max(now.limit/2, LIMIT/64) : now.limit;
        }
    }

    common_template_step(const common_template_step &) = delete;
    common_template_step & operator=(const common_template_step &) = delete;

    // What is made or looked at within a step costs a part of one.
    static void spend_items(size_t n)  { spend((int64_t) n); } // places of a list
    static void spend_item()           { spend(1); }
    static void spend_node()           { spend(LIMIT/MAX_NODES); } // when it is parsed
    static void spend_bytes(size_t n)  { spend((int64_t) (n/ITEM_BYTES)); }
    template <typename T>
    static void spend_text(const T & text) { // in parts
        spend(2*(int64_t) text.parts.size());
        spend_bytes(text.length());
    }
    template <typename T>
    static void spend_value(const T & val) {
        spend(4);
        spend_text(val.val_str);
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

private:
    friend class common_template_renderings;

    static constexpr int64_t STEP       = 16; // places of a list
    static constexpr int64_t LIMIT      = MAX_STEPS*STEP;
    static constexpr size_t  ITEM_BYTES = 32;

    struct count {
        int64_t depth  = 0;
        int64_t spent  = 0;
        int64_t limit  = LIMIT;
        int     scopes = 0;
        bool    over   = false;
    };
    static count & counts() {
        static thread_local count now;
        return now;
    }
    static void spend(int64_t n) {
        count & now = counts();
        if (now.depth > 0 && (now.spent += n) > now.limit) { // what it is given is made before
            now.over = true;
            throw std::runtime_error("the chat template does not come to an end, makes too much text, or is too long itself");
        }
    }
};

// A call that renders a template several times: after a rendering that did not end, the next ones get half of the steps each.
class common_template_renderings {
public:
    common_template_renderings() { common_template_step::counts().scopes++; }
    ~common_template_renderings() {
        auto & now = common_template_step::counts();
        if (--now.scopes == 0) {
            now.limit = common_template_step::LIMIT; // of the next call, which may be somebody else's
        }
    }

    common_template_renderings(const common_template_renderings &) = delete;
    common_template_renderings & operator=(const common_template_renderings &) = delete;
};

// Let go of what a value holds, one after the other: within one another, deep lists would overflow the stack.
template <typename T>
void common_template_free(T & val) {
    if (val.val_arr.empty() && val.val_obj.empty()) {
        return;
    }
    auto rest = std::move(val.val_arr);
    const auto take = [&rest](auto & pairs) {
        for (auto & pair : pairs) {
            rest.push_back(std::move(pair.first));
            rest.push_back(std::move(pair.second));
        }
        pairs.clear();
    };
    take(val.val_obj);
    while (!rest.empty()) {
        const auto last = std::move(rest.back());
        rest.pop_back();
        if (last && last.use_count() == 1) {
            std::move(last->val_arr.begin(), last->val_arr.end(), std::back_inserter(rest));
            last->val_arr.clear();
            take(last->val_obj);
        }
    }
}
