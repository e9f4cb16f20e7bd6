#include "shadow.h"

#include <algorithm>

namespace loopback {

Shadow::Shadow(const Device & device, const ggml_cgraph * graph) : device_(device) {
    const size_t size = (size_t) std::max(graph->n_nodes, 1);
    context_.reset(ggml_init({ggml_graph_overhead_custom(size, false), nullptr, true}));
    GGML_ASSERT(context_ != nullptr);
    graph_ = ggml_new_graph_custom(context_.get(), size, false);
    for (int i = 0; i < graph->n_nodes; i++) {
        const ggml_tensor * node = graph->nodes[i];
        ggml_tensor * copy = elsewhere(node) ? placeholder(node) : of(node);
        for (int j = 0; j < GGML_MAX_SRC && copy->op != GGML_OP_NONE; j++) {
            copy->src[j] = node->src[j] != nullptr ? of(node->src[j]) : nullptr;
        }
        ggml_graph_add_node(graph_, copy);
    }
    copy_use_counts(graph);
}

// A split may begin with a view of an input that lies on the host: nothing is computed for it, and what uses it was given a
// copy. Devices pass over it.
bool Shadow::elsewhere(const ggml_tensor * node) const {
    const bool view = node->op == GGML_OP_VIEW || node->op == GGML_OP_RESHAPE || node->op == GGML_OP_PERMUTE || node->op == GGML_OP_TRANSPOSE;
    if (!view || node->data == nullptr) {
        return false;
    }
    const std::shared_ptr<Memory> memory = memory_of(buffer_of(node));
    return memory == nullptr || &memory->device() != &device_;
}

// Takes the node's place in the graph. What uses the node all the same does not find it, and is refused.
ggml_tensor * Shadow::placeholder(const ggml_tensor * node) {
    tensors_.push_back(*node);
    ggml_tensor * copy = &tensors_.back();
    copy->op       = GGML_OP_NONE;
    copy->view_src = nullptr;
    copy->data     = nullptr;
    copy->buffer   = nullptr;
    copy->extra    = nullptr;
    std::fill(std::begin(copy->src), std::end(copy->src), nullptr);
    return copy;
}

// A tensor that is no node of this graph has no sources: they may be gone, and no kernel looks at them.
ggml_tensor * Shadow::of(const ggml_tensor * tensor) {
    const auto found = copies_.find(tensor);
    if (found != copies_.end()) {
        return found->second;
    }
    tensors_.push_back(*tensor);
    ggml_tensor * copy = &tensors_.back();
    copies_.emplace(tensor, copy);
    std::fill(std::begin(copy->src), std::end(copy->src), nullptr);
    copy->extra    = nullptr;
    copy->view_src = tensor->view_src != nullptr ? of(tensor->view_src) : nullptr;
    place(copy, tensor);
    return copy;
}

void Shadow::place(ggml_tensor * copy, const ggml_tensor * tensor) {
    if (tensor->data == nullptr) {
        return; // only its shape is used
    }
    const std::shared_ptr<Memory> memory = memory_on(device_, tensor);
    copy->data   = memory->at(tensor, 0, ggml_nbytes(tensor));
    copy->buffer = memory->host();
    memories_.insert(memory);
}

// The CPU joins neighbouring nodes when nothing else uses the first one. What uses it may lie in another split, which
// only the original graph knows.
void Shadow::copy_use_counts(const ggml_cgraph * graph) {
    const ggml_hash_set & from = graph->visited_hash_set;
    if (from.size == 0) {
        return;
    }
    for (int i = 0; i < graph->n_nodes; i++) {
        if (!ggml_hash_contains(&from, graph->nodes[i])) {
            continue;
        }
        const size_t slot = ggml_hash_find_or_insert(&graph_->visited_hash_set, graph_->nodes[i]);
        graph_->use_counts[slot] = graph->use_counts[ggml_hash_find(&from, graph->nodes[i])];
    }
}

} // namespace loopback
