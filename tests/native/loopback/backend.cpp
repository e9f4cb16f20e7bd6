// Backends and events: a backend is a stream with a CPU backend behind it.

#include "queue.h"
#include "shadow.h"

#include <atomic>
#include <cstring>

namespace loopback {

namespace {

struct Stream {
    Device &               device;
    ggml_backend_t         cpu;
    std::shared_ptr<Queue> queue;
    std::atomic<int>       n_threads{0}; // 0: what the CPU backend begins with
};

struct Event {
    std::shared_ptr<Queue> queue; // NULL until it is recorded
    uint64_t               position = 0;
};

Stream & stream_of(ggml_backend_t backend) { return *static_cast<Stream *>(backend->context); }
Event &  event_of(ggml_backend_event_t event) { return *static_cast<Event *>(event->context); }

const char * get_name(ggml_backend_t backend) { return stream_of(backend).device.name.c_str(); }

bool is_ours(ggml_backend_t backend) { return backend != nullptr && backend->iface.get_name == get_name; }

void backend_free(ggml_backend_t backend) {
    Stream & stream = stream_of(backend);
    const size_t dropped = stream.queue->close();
    stream.device.count([=](loopback_counts & s) { s.dropped += dropped; });
    ggml_backend_free(stream.cpu);
    delete &stream;
    delete backend;
}

// The lambdas below hold the memory, so a buffer that is freed too early does no harm here: on a GPU, too, freeing waits.

void set_async(ggml_backend_t backend, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    const std::shared_ptr<Memory> memory = memory_on(stream_of(backend).device, tensor);
    char * to = memory->at(tensor, offset, size);
    memory->device().count([=](loopback_counts & s) { s.async_sets++, s.async_set_bytes += size; });
    stream_of(backend).queue->submit([memory, to, data, size] { memcpy(to, data, size); });
}

void get_async(ggml_backend_t backend, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    const std::shared_ptr<Memory> memory = memory_on(stream_of(backend).device, tensor);
    const char * from = memory->at(tensor, offset, size);
    memory->device().count([=](loopback_counts & s) { s.async_gets++, s.async_get_bytes += size; });
    stream_of(backend).queue->submit([memory, from, data, size] { memcpy(data, from, size); });
}

// Makes `later` wait for what `earlier` was given so far.
void join(Queue & later, const std::shared_ptr<Queue> & earlier) {
    later.submit([earlier, position = earlier->submitted()] { earlier->wait(position); });
}

// Every copy lies between the devices of the two streams, or there is none.
bool copy_async(ggml_backend_t backend_src, ggml_backend_t backend_dst, const ggml_tensor * src, ggml_tensor * dst) {
    const std::shared_ptr<Memory> from = memory_of(buffer_of(src));
    const std::shared_ptr<Memory> to   = memory_of(buffer_of(dst));
    Device & device = stream_of(backend_dst).device;
    const bool ours = is_ours(backend_src) && from != nullptr && &from->device() == &stream_of(backend_src).device &&
        to != nullptr && &to->device() == &device;
    if (!ours || device.get(LOOPBACK_REFUSE_ASYNC) != 0) {
        device.count([](loopback_counts & s) { s.copies_refused++; });
        return false;
    }
    const size_t size = ggml_nbytes(src);
    const char * first = from->at(src, 0, size);
    char * target = to->at(dst, 0, size);
    count_copy(from->device(), to->device(), size, true);
    const std::shared_ptr<Queue> & earlier = stream_of(backend_src).queue;
    const std::shared_ptr<Queue> & later   = stream_of(backend_dst).queue;
    const auto copy = [from, to, first, target, size] { memmove(target, first, size); };
    if (earlier == later) {
        later->submit(copy);
    } else {
        // after what both have to do, and before what either is given from now on
        join(*earlier, later);
        earlier->submit(copy);
        join(*later, earlier);
    }
    return true;
}

void synchronize(ggml_backend_t backend) {
    Stream & stream = stream_of(backend);
    stream.device.count([](loopback_counts & s) { s.synchronizes++; });
    stream.queue->wait(stream.queue->submitted());
}

void compute(Stream & stream, ggml_cgraph * graph) {
    const ggml_backend_dev_t dev = ggml_backend_get_device(stream.cpu);
    const auto set_n_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "ggml_backend_set_n_threads"));
    if (stream.n_threads > 0 && set_n_threads != nullptr) {
        set_n_threads(stream.cpu, stream.n_threads);
    }
    const ggml_status status = ggml_backend_graph_compute(stream.cpu, graph);
    if (status != GGML_STATUS_SUCCESS) {
        GGML_ABORT("%s: the CPU could not compute a graph: %s", stream.device.name.c_str(), ggml_status_to_string(status));
    }
}

ggml_status graph_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    Stream & stream = stream_of(backend);
    if (stream.device.due(LOOPBACK_FAIL_COMPUTE)) {
        stream.device.count([](loopback_counts & s) { s.computes++, s.computes_failed++; });
        return GGML_STATUS_FAILED;
    }
    stream.device.count([=](loopback_counts & s) { s.computes++, s.nodes += (uint64_t) graph->n_nodes; });
    const auto shadow = std::make_shared<Shadow>(stream.device, graph);
    stream.queue->submit([&stream, shadow] { compute(stream, shadow->graph()); });
    return GGML_STATUS_SUCCESS;
}

void event_record(ggml_backend_t backend, ggml_backend_event_t event) {
    Stream & stream = stream_of(backend);
    stream.device.count([](loopback_counts & s) { s.event_records++; });
    event_of(event) = {stream.queue, stream.queue->submitted()};
}

void event_wait(ggml_backend_t backend, ggml_backend_event_t event) {
    Stream & stream = stream_of(backend);
    stream.device.count([](loopback_counts & s) { s.event_waits++; });
    const Event recorded = event_of(event);
    if (recorded.queue != nullptr && recorded.queue != stream.queue) {
        stream.queue->submit([recorded] { recorded.queue->wait(recorded.position); });
    }
}

ggml_guid_t guid() {
    static ggml_guid id = {'p', 'y', 'l', 'l', 'a', 'm', 'a', '-', 'l', 'o', 'o', 'p', 'b', 'a', 'c', 'k'};
    return &id;
}

} // namespace

ggml_backend_t backend_init(ggml_backend_dev_t dev, const char * /*params*/) {
    Device & device = device_of(dev);
    ggml_backend_t cpu = cpu_device() != nullptr ? ggml_backend_dev_init(cpu_device(), nullptr) : nullptr;
    if (cpu == nullptr) {
        GGML_LOG_ERROR("%s: there is no CPU backend to compute with, load its plug-in first\n", device.name.c_str());
        return nullptr;
    }
    const auto mode = static_cast<loopback_mode>(device.get(LOOPBACK_MODE));
    ggml_backend_i i{};
    i.get_name         = get_name;
    i.free             = backend_free;
    i.set_tensor_async = set_async;
    i.get_tensor_async = get_async;
    i.cpy_tensor_async = copy_async;
    i.synchronize      = synchronize;
    i.graph_compute    = graph_compute;
    i.event_record     = event_record;
    i.event_wait       = event_wait;
    return new ggml_backend{guid(), i, dev, new Stream{device, cpu, std::make_shared<Queue>(mode)}};
}

void backend_set_n_threads(ggml_backend_t backend, int n_threads) { stream_of(backend).n_threads = n_threads; }

ggml_backend_event_t event_new(ggml_backend_dev_t dev) {
    device_of(dev).count([](loopback_counts & s) { s.events++; });
    return new ggml_backend_event{dev, new Event};
}

void event_free(ggml_backend_dev_t dev, ggml_backend_event_t event) {
    device_of(dev).count([](loopback_counts & s) { s.event_frees++; });
    delete &event_of(event);
    delete event;
}

void event_synchronize(ggml_backend_dev_t dev, ggml_backend_event_t event) {
    device_of(dev).count([](loopback_counts & s) { s.event_synchronizes++; });
    const Event & recorded = event_of(event);
    if (recorded.queue != nullptr) {
        recorded.queue->wait(recorded.position);
    }
}

} // namespace loopback
