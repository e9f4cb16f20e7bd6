#include "llama-state-io.h"

void llama_state_note_cells(
        llama_io_write_i                                 & io,
        const std::vector<std::pair<uint32_t, uint32_t>> & ranges,
        uint32_t                                           head,
        std::function<bool(llama_seq_id)>                  fit) {
    if (auto * writer = dynamic_cast<llama_state_writer *>(&io)) {
        writer->cells.push_back({ranges, head, std::move(fit)});
    }
}

bool llama_state_stays(const llama_io_write_i & io) {
    return dynamic_cast<const llama_state_writer *>(&io) || dynamic_cast<const llama_state_sizer *>(&io);
}

const llama_state_cells * llama_state_noted_cells(llama_io_read_i & io) {
    auto * reader = dynamic_cast<llama_state_reader *>(&io);

    return reader && reader->n_cells < reader->cells.size() ? &reader->cells[reader->n_cells++] : nullptr;
}
