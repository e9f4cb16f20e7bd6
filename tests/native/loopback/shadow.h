#pragma once

// A graph as the CPU backend computes it: the same nodes, with the addresses of the bytes.

#include "memory.h"

#include "ggml-impl.h"

#include <deque>
#include <memory>
#include <unordered_map>
#include <unordered_set>

namespace loopback {

// Every tensor has to be on the device. Copies everything it needs, as a device takes its arguments when a kernel is launched: the original graph may be
// changed or freed while the shadow waits in a stream.
class Shadow {
public:
    Shadow(const Device & device, const ggml_cgraph * graph);

    ggml_cgraph * graph() const { return graph_; }

private:
    ggml_tensor * of(const ggml_tensor * tensor);
    bool          elsewhere(const ggml_tensor * node) const;
    ggml_tensor * placeholder(const ggml_tensor * node);
    void          place(ggml_tensor * copy, const ggml_tensor * tensor);
    void          copy_use_counts(const ggml_cgraph * graph);

    struct FreeContext {
        void operator()(ggml_context * context) const { ggml_free(context); }
    };

    const Device &                                           device_;
    std::unique_ptr<ggml_context, FreeContext>               context_;
    ggml_cgraph *                                            graph_ = nullptr;
    std::deque<ggml_tensor>                                  tensors_;
    std::unordered_map<const ggml_tensor *, ggml_tensor *>   copies_;
    std::unordered_set<std::shared_ptr<Memory>>              memories_; // alive until the graph is computed
};

} // namespace loopback
