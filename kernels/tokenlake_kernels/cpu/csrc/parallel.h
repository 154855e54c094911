// A parallel loop that shares its threads with PyTorch and survives a fork.
//
// Built with -fopenmp but linked without a runtime of its own: the GOMP calls find the one that PyTorch has already
// loaded, so two pools never fight over the cores. That runtime hangs in a forked child once the parent has used it;
// there, and where the compiler has no OpenMP, threads are made for the call and joined at its end.
#pragma once
#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#ifdef _OPENMP
inline std::atomic<bool>& forked() {
    static std::atomic<bool> flag{false};
    static int registered = pthread_atfork(nullptr, nullptr, [] { forked() = true; });
    (void)registered;
    return flag;
}
#endif

// work(unit, thread) for all units, in order of unit, on at most `threads` threads.
template <class Work>
void parallel(int64_t units, int threads, const Work& work) {
    if (units < threads) threads = static_cast<int>(units);
    if (threads <= 1) {
        for (int64_t u = 0; u < units; ++u) work(u, 0);
        return;
    }
    std::atomic<int64_t> next{0};
    auto loop = [&](int thread) {
        for (int64_t u; (u = next.fetch_add(1, std::memory_order_relaxed)) < units;) work(u, thread);
    };
#ifdef _OPENMP
    if (!forked()) {
        std::atomic<int> id{0};
#pragma omp parallel num_threads(threads)
        loop(id.fetch_add(1, std::memory_order_relaxed));
        return;
    }
#endif
    std::vector<std::thread> pool;
    for (int t = 1; t < threads; ++t) pool.emplace_back(loop, t);
    loop(0);
    for (auto& t : pool) t.join();
}

// The same, but which thread does which unit never depends on timing: for sums that are kept one a thread.
template <class Work>
void parallel_fixed(int64_t units, int threads, const Work& work) {
    parallel(units < threads ? units : threads, threads, [&](int64_t thread, int) {
        for (int64_t u = thread; u < units; u += threads) work(u, static_cast<int>(thread));
    });
}
