#pragma once

// A stream: operations that are carried out in order, at a time that the mode decides.

#include "loopback.h"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace loopback {

class Queue {
public:
    using Operation = std::function<void()>;

    explicit Queue(loopback_mode mode) : mode_(mode) {
        if (mode == LOOPBACK_WORKER) {
            worker_ = std::thread([this] { work(); });
        }
    }

    Queue(const Queue &)             = delete;
    Queue & operator=(const Queue &) = delete;
    ~Queue() { close(); }

    // Returns the operation's position, for wait().
    uint64_t submit(Operation operation) {
        std::unique_lock<std::mutex> lock(mutex_);
        pending_.push_back(std::move(operation));
        const uint64_t position = ++submitted_;
        changed_.notify_all();
        lock.unlock();
        if (mode_ == LOOPBACK_IMMEDIATE) {
            wait(position);
        }
        return position;
    }

    uint64_t submitted() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return submitted_;
    }

    // Returns when everything up to the position is done; without a worker the caller does it. An operation may wait
    // for other queues: that cannot go round in a circle, since every position lies in the past of its waiter.
    void wait(uint64_t position) {
        std::unique_lock<std::mutex> lock(mutex_);
        while (done_ < position) {
            if (mode_ == LOOPBACK_WORKER || running_) {
                changed_.wait(lock);
            } else {
                run_one(lock);
            }
        }
    }

    // Drops what has not begun and returns how much that was. The host memory that it names may be gone: llama.cpp
    // frees a context's output before its backends, and waited for neither before 2026-10.
    size_t close() {
        std::deque<Operation> dropped;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            dropped.swap(pending_);
            closed_ = true;
            changed_.notify_all();
            changed_.wait(lock, [this] { return !running_; });
            done_ = submitted_;
            changed_.notify_all();
        }
        if (worker_.joinable()) {
            worker_.join();
        }
        return dropped.size();
    }

private:
    void run_one(std::unique_lock<std::mutex> & lock) {
        Operation operation = std::move(pending_.front());
        pending_.pop_front();
        running_ = true;
        lock.unlock();
        operation();
        operation = nullptr; // frees what it holds before anybody is told
        lock.lock();
        running_ = false;
        ++done_;
        changed_.notify_all();
    }

    void work() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return closed_ || !pending_.empty(); });
            if (closed_) {
                return;
            }
            run_one(lock);
        }
    }

    const loopback_mode     mode_;
    std::mutex              mutex_;
    std::condition_variable changed_;
    std::deque<Operation>   pending_;
    uint64_t                submitted_ = 0;
    uint64_t                done_      = 0;
    bool                    running_   = false;
    bool                    closed_    = false;
    std::thread             worker_;
};

} // namespace loopback
