// Times ggml's matrix products for scripts/bench_kernels.py: a command per line on stdin, an answer per line on stdout.
//
//   info                                        -> ggml VERSION; buffer types; CPU features
//   load NAME TYPE BUFFER K N COPIES THREADS    -> bytes of one weight, or "no" and the reason
//   run NAME M WARM RUNS                        -> seconds of each timed run of a graph of COPIES products
//   free                                        -> ok; forgets everything loaded

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kEncodedRows = 64;  // repeated over the weight: encoding is slow, and speed does not depend on values

struct Freer {
    void operator()(ggml_context* c) const { ggml_free(c); }
    void operator()(ggml_backend_buffer* b) const { ggml_backend_buffer_free(b); }
    void operator()(ggml_backend* b) const { ggml_backend_free(b); }
};
template <class T>
using Owned = std::unique_ptr<T, Freer>;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
    rusage use{};
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + 1e-6 * (use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

// OpenMP's workers spin for a while after a run: whoever is timed next must not pay for it.
void settle() {
    for (int i = 0; i < 100; ++i) {
        const double before = cpu_seconds();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (cpu_seconds() - before < 0.0004) return;
    }
}

ggml_type type_named(const std::string& name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const char* known = ggml_type_name(static_cast<ggml_type>(i));
        if (known && name == known) return static_cast<ggml_type>(i);
    }
    throw std::runtime_error("no ggml type " + name);
}

ggml_backend_dev_t cpu() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }

// The plain buffer type and those that reorder weights for a CPU's instructions.
std::vector<ggml_backend_buffer_type_t> buffer_types() {
    std::vector<ggml_backend_buffer_type_t> found{ggml_backend_cpu_buffer_type()};
    const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu()), "ggml_backend_dev_get_extra_bufts"));
    for (auto* types = extra ? extra(cpu()) : nullptr; types && *types; ++types) found.push_back(*types);
    return found;
}

Owned<ggml_context> context(size_t tensors) {
    return Owned<ggml_context>(ggml_init({tensors * ggml_tensor_overhead() + ggml_graph_overhead_custom(tensors, false),
                                          nullptr, /*no_alloc=*/true}));
}

Owned<ggml_backend_buffer> allocate(ggml_context* tensors, ggml_backend_buffer_type_t type) {
    Owned<ggml_backend_buffer> buffer(ggml_backend_alloc_ctx_tensors_from_buft(tensors, type));
    if (!buffer) throw std::runtime_error("no memory");
    return buffer;
}

struct Graph {
    Owned<ggml_context> tensors;
    Owned<ggml_backend_buffer> buffer;
    ggml_cgraph* graph;
};

class Products {
public:
    Products(const std::string& type, const std::string& buffer, int64_t k, int64_t n, int copies, int threads)
        : k_(k), tensors_(context(copies + 2)), backend_(ggml_backend_cpu_init()) {
        const ggml_type kind = type_named(type);
        if (k % ggml_blck_size(kind)) throw std::runtime_error("K is no multiple of the block");
        ggml_backend_cpu_set_n_threads(backend_.get(), threads);
        for (int i = 0; i < copies; ++i) weights_.push_back(ggml_new_tensor_2d(tensors_.get(), kind, k, n));
        const auto place = type_of_buffer(buffer);
        check(place);
        buffer_ = allocate(tensors_.get(), place);
        ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        const std::vector<uint8_t> data = encoded(kind, n);
        for (ggml_tensor* w : weights_) ggml_backend_tensor_set(w, data.data(), 0, data.size());
    }

    size_t bytes() const { return ggml_nbytes(weights_[0]); }

    void run(int64_t m, int warm, int runs, std::ostream& out) {
        ggml_cgraph* graph = graph_of(m);
        for (int i = -warm; i < runs; ++i) {
            const double begin = now();
            if (ggml_backend_graph_compute(backend_.get(), graph) != GGML_STATUS_SUCCESS)
                throw std::runtime_error("compute failed");
            if (i >= 0) out << now() - begin << ' ';
        }
    }

private:
    static ggml_backend_buffer_type_t type_of_buffer(const std::string& name) {
        for (auto type : buffer_types())
            if (name == ggml_backend_buft_name(type)) return type;
        throw std::runtime_error("no buffer type " + name + " here");
    }

    // Whether the device multiplies by a weight in such a buffer, asked with an empty buffer.
    void check(ggml_backend_buffer_type_t place) {
        const auto scratch = context(4);
        ggml_tensor* w = ggml_new_tensor_2d(scratch.get(), weights_[0]->type, k_, weights_[0]->ne[1]);
        ggml_tensor* x = ggml_new_tensor_2d(scratch.get(), GGML_TYPE_F32, k_, 1);
        const Owned<ggml_backend_buffer> empty(ggml_backend_buft_alloc_buffer(place, 0));
        w->buffer = empty.get();
        const bool works = ggml_backend_dev_supports_op(cpu(), ggml_mul_mat(scratch.get(), w, x));
        w->buffer = nullptr;
        if (!works) throw std::runtime_error("not supported in this buffer type");
    }

    std::vector<uint8_t> encoded(ggml_type kind, int64_t n) const {
        std::mt19937 generator(0);
        std::normal_distribution<float> normal(0.0F, 0.02F);
        std::vector<float> some(k_ * kEncodedRows);
        for (float& v : some) v = normal(generator);
        const size_t row = ggml_row_size(kind, k_);
        std::vector<uint8_t> data(row * n);
        ggml_quantize_chunk(kind, some.data(), data.data(), 0, std::min(n, kEncodedRows), k_, nullptr);
        for (size_t i = row * kEncodedRows; i < data.size(); ++i) data[i] = data[i - row * kEncodedRows];
        return data;
    }

    ggml_cgraph* graph_of(int64_t m) {
        auto& known = graphs_[m];
        if (known) return known->graph;
        known = std::make_unique<Graph>();
        known->tensors = context(2 * weights_.size() + 8);
        ggml_context* tensors = known->tensors.get();
        ggml_tensor* x = ggml_new_tensor_2d(tensors, GGML_TYPE_F32, k_, m);
        known->graph = ggml_new_graph_custom(tensors, weights_.size() + 8, false);
        for (ggml_tensor* w : weights_) ggml_build_forward_expand(known->graph, ggml_mul_mat(tensors, w, x));
        known->buffer = allocate(tensors, ggml_backend_cpu_buffer_type());
        std::mt19937 generator(1);
        std::normal_distribution<float> normal;
        std::vector<float> values(k_ * m);
        for (float& v : values) v = normal(generator);
        ggml_backend_tensor_set(x, values.data(), 0, ggml_nbytes(x));
        return known->graph;
    }

    int64_t k_;
    Owned<ggml_context> tensors_;
    Owned<ggml_backend> backend_;
    Owned<ggml_backend_buffer> buffer_;
    std::vector<ggml_tensor*> weights_;
    std::map<int64_t, std::unique_ptr<Graph>> graphs_;
};

void info(std::ostream& out) {
    out << "ggml " << ggml_version() << ';';
    for (auto type : buffer_types()) out << ' ' << ggml_backend_buft_name(type);
    out << ';';
    const std::pair<const char*, int> features[] = {
        {"avx2", ggml_cpu_has_avx2()},           {"avx512", ggml_cpu_has_avx512()},
        {"avx512-vnni", ggml_cpu_has_avx512_vnni()}, {"avx512-bf16", ggml_cpu_has_avx512_bf16()},
        {"avx-vnni", ggml_cpu_has_avx_vnni()},   {"amx-int8", ggml_cpu_has_amx_int8()},
        {"llamafile", ggml_cpu_has_llamafile()}};
    for (const auto& [name, has] : features)
        if (has) out << ' ' << name;
}

}  // namespace

int main() {
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_cpu_init();
    std::map<std::string, Products> loaded;
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream in(line);
        std::ostringstream out;
        std::string command, name, type, buffer;
        try {
            in >> command;
            if (command == "info") {
                info(out);
            } else if (command == "free") {
                loaded.clear();
                out << "ok";
            } else if (command == "load") {
                int64_t k = 0, n = 0;
                int copies = 0, threads = 0;
                in >> name >> type >> buffer >> k >> n >> copies >> threads;
                out << loaded.try_emplace(name, type, buffer, k, n, copies, threads).first->second.bytes();
            } else if (command == "run") {
                int64_t m = 0;
                int warm = 0, runs = 0;
                in >> name >> m >> warm >> runs;
                loaded.at(name).run(m, warm, runs, out);
                settle();
            } else {
                throw std::runtime_error("unknown command");
            }
        } catch (const std::exception& error) {
            out.str("");
            out << "no " << error.what();
        }
        std::cout << out.str() << std::endl;
    }
}
