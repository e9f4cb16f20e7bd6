#include "spec-checkpoint.h"

#include "common.h"
#include "ggml.h"
#include "llama-checkpoints.h"

#include <mutex>
#include <sstream>

using stats = common_checkpoint_stats;

//
// of the whole process, for the metrics
//

namespace {

struct process_totals {
    std::mutex mutex;

    common_checkpoint_stats done;

    std::array<size_t, 2> bytes = {}; // that are held: on devices, in host memory
};

} // namespace

static process_totals & totals() {
    static process_totals all;
    return all;
}

static void count(common_checkpoint_stats & stats, stats::kind kind, int64_t t_start, bool host = false) {
    process_totals & all = totals();

    const uint64_t t_us = ggml_time_us() - t_start;

    const std::lock_guard<std::mutex> lock(all.mutex);
    for (common_checkpoint_stats * cur : {&stats, &all.done}) {
        cur->items[kind].n    += 1;
        cur->items[kind].t_us += t_us;
        cur->n_host           += host;
    }
}

//
// common_saved_state
//

bool common_saved_state::save(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags, bool on_device) {
    if (this->ctx != ctx) {
        clear();
        this->ctx = ctx;
    }

    if (on_device && save_in_context(seq_id, flags)) {
        return true;
    }

    return save_as_blob(seq_id, flags);
}

bool common_saved_state::save_in_context(llama_seq_id seq_id, llama_state_seq_flags flags) {
    // a device that had no memory is not asked again until this is cleared
    const llama_checkpoint_place place = host && id ? LLAMA_CHECKPOINT_HOST : LLAMA_CHECKPOINT_DEVICE_OR_HOST;

    const llama_checkpoint_id next = llama_memory_checkpoint_replace(ctx, id, seq_id, flags, place);
    if (next == 0) {
        return false;
    }

    id = next;
    blob.clear();
    hold(llama_memory_checkpoint_size(ctx, id), llama_memory_checkpoint_on_host(ctx, id));

    return true;
}

bool common_saved_state::save_as_blob(llama_seq_id seq_id, llama_state_seq_flags flags) {
    if (id != 0) {
        llama_memory_checkpoint_delete(ctx, id);
        id = 0;
    }

    blob.resize(llama_state_seq_get_size_ext(ctx, seq_id, flags));
    hold(blob.size(), true);

    if (blob.empty() || llama_state_seq_get_data_ext(ctx, blob.data(), blob.size(), seq_id, flags) != blob.size()) {
        clear();
        return false;
    }

    return true;
}

bool common_saved_state::restore(llama_seq_id seq_id, llama_state_seq_flags flags) const {
    if (id != 0) {
        return llama_memory_checkpoint_restore(ctx, id, seq_id);
    }

    return llama_state_seq_set_data_ext(ctx, blob.data(), blob.size(), seq_id, flags) == blob.size();
}

void common_saved_state::clear() {
    if (id != 0) {
        llama_memory_checkpoint_delete(ctx, id);
        id = 0;
    }
    blob.clear();
    hold(0, false);
}

void common_saved_state::hold(size_t n, bool in_host) {
    process_totals & all = totals();

    const std::lock_guard<std::mutex> lock(all.mutex);
    all.bytes[host]    -= bytes;
    all.bytes[in_host] += n;

    bytes = n;
    host  = in_host;
}

//
// common_spec_checkpoint
//

void common_spec_checkpoint::clear() {
    data_tgt.clear();
    data_dft.clear();

    update_pos(0, 0, 0);

    stats = {};
}

void common_spec_checkpoint::update_pos(int64_t n_tokens, llama_pos pos_min, llama_pos pos_max) {
    this->n_tokens = n_tokens;
    this->pos_min  = pos_min;
    this->pos_max  = pos_max;
}

void common_spec_checkpoint::update(common_saved_state & state, llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) {
    if (ctx == nullptr) {
        return;
    }

    const int64_t t_start = ggml_time_us();

    if (!state.save(ctx, seq_id, flags, on_device)) {
        GGML_ABORT("the state of sequence %d can be kept neither on the device nor in host memory\n", seq_id);
    }

    count(stats, stats::SAVE, t_start, state.on_host());
}

void common_spec_checkpoint::load(const common_saved_state & state, llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    if (ctx == nullptr || state.empty()) {
        return;
    }

    const int64_t t_start = ggml_time_us();

    if (!state.restore(seq_id, flags)) {
        GGML_ABORT("the checkpoint of sequence %d cannot be restored (pos_min = %d, pos_max = %d)\n", seq_id, pos_min, pos_max);
    }

    count(stats, stats::RESTORE, t_start);
}

void common_spec_checkpoint::update_tgt(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) {
    update(data_tgt, ctx, seq_id, flags);
}

void common_spec_checkpoint::update_dft(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) {
    update(data_dft, ctx, seq_id, flags);
}

void common_spec_checkpoint::load_tgt(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    load(data_tgt, ctx, seq_id, flags);
}

void common_spec_checkpoint::load_dft(llama_context * ctx, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    load(data_dft, ctx, seq_id, flags);
}

void common_spec_checkpoint::seq_rm(const std::function<void()> & remove) const {
    const int64_t t_start = ggml_time_us();

    remove();

    count(stats, stats::SEQ_RM, t_start);
}

std::string common_spec_checkpoint::summary() const {
    const auto & [save, restore, seq_rm] = stats.items;

    if (save.n == 0) {
        return "";
    }

    return string_format("save = %.2f ms / %llu (%llu in host memory), restore = %.2f ms / %llu, seq_rm = %.2f ms / %llu, size = %.3f MiB",
            save.t_us    / 1e3, (unsigned long long) save.n, (unsigned long long) stats.n_host,
            restore.t_us / 1e3, (unsigned long long) restore.n,
            seq_rm.t_us  / 1e3, (unsigned long long) seq_rm.n,
            size() / 1024.0 / 1024.0);
}

//
// metrics
//

std::string common_checkpoint_metrics() {
    process_totals & all = totals();

    const std::lock_guard<std::mutex> lock(all.mutex);

    std::ostringstream res;

    const auto add = [&](const std::string & name, const char * type, const std::string & help, double value) {
        res << "# HELP llamacpp:" << name << " " << help  << "\n"
            << "# TYPE llamacpp:" << name << " " << type  << "\n"
            << "llamacpp:"        << name << " " << value << "\n";
    };

    const char * const names[] = {"save",               "restore",               "seq_rm"};
    const char * const words[] = {"saving checkpoints", "restoring checkpoints", "removing rejected tokens"};

    for (size_t i = 0; i < stats::N_KINDS; ++i) {
        const std::string name = std::string("spec_ckpt_") + names[i];

        add(name + "_total",         "counter", std::string("Speculative: Number of times of ") + words[i], all.done.items[i].n);
        add(name + "_seconds_total", "counter", std::string("Speculative: Total time spent ")   + words[i], all.done.items[i].t_us / 1e6);
    }

    add("spec_ckpt_host_total",   "counter", "Speculative: Checkpoints that were kept in host memory", all.done.n_host);
    add("spec_ckpt_device_bytes", "gauge",   "Speculative: Bytes of checkpoints beside the sequences' own memory", all.bytes[0]);
    add("spec_ckpt_host_bytes",   "gauge",   "Speculative: Bytes of checkpoints in host memory", all.bytes[1]);

    return res.str();
}
