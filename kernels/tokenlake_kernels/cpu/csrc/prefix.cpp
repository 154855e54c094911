// Softmax attention of jagged queries to the first keys of their row and to one key of their own, biased by time gap.
#include "softmax.h"

namespace {

// limits and own hold BQ entries past the last query, so that whole vectors can be read.
struct Prefix {
    const int32_t *limits, *own;
    const int64_t* q_offsets;
    void row(int64_t b, int64_t) {
        limits += q_offsets[b];
        own += q_offsets[b];
    }
    int64_t first(int64_t) const { return 0; }
    int64_t last(int64_t, int64_t keys) const { return keys; }
    Seen tile(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
        int32_t least = INT32_MAX, most = 0, mine = 0;
        for (int64_t i = i0; i < i1; ++i) {
            least = limits[i] < least ? limits[i] : least;
            most = limits[i] > most ? limits[i] : most;
            mine |= own[i] >= j0 && own[i] < j1;
        }
        if (least >= j1) return Seen::all;
        return most > j0 || mine ? Seen::some : Seen::none;
    }
    // Scores of the queries i0.. for the keys j0..: unseen ones become `value`.
    void hide(float* s, int64_t width, int64_t i0, int64_t j0, int64_t keys, float value) const {
        for (int64_t n = 0; n < width; n += W) {
            vi limit, mine;
            std::memcpy(&limit, limits + i0 + n, sizeof limit);
            std::memcpy(&mine, own + i0 + n, sizeof mine);
            for (int64_t j = 0; j < keys; ++j) {
                const vi key = splat(static_cast<int32_t>(j0 + j));
                float* at = s + j * width + n;
                store(at, (limit > key) | (mine == key) ? load(at) : splat(value));
            }
        }
    }
};

void hide(const Prefix& mask, float* s, int64_t width, int64_t i0, int64_t, int64_t j0, int64_t keys, float value) {
    mask.hide(s, width, i0, j0, keys, value);
}

INLINE int32_t bucket(int64_t gap, int64_t buckets) {
    float x = static_cast<float>(gap < 0 ? -gap : gap);
    x = x < 1 ? 1 : x;
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<int32_t>(min64((bits - 0x3F800000) >> 22, buckets - 1));
}

// The bias table: entry 0 for a query's own key, then one for each half-octave bucket of the time gap.
struct Times {
    const float* table;  // (table heads, 1 + buckets) or null
    int64_t buckets, step;  // step: a head's stride, 0 when the heads share one table
    const int64_t *query, *key;
    const int64_t *q_offsets, *k_offsets;
    const int32_t* own;

    // Calls one(y, entry) for the keys whose table entry the n queries of a vector share, and each(y) for the others:
    // most keys are so far away that neighbouring queries agree.
    template <class One, class Each>
    void walk(const int64_t* at, int64_t n, const int64_t* keys, int64_t w, const One& one, const Each& each) const {
        int64_t low = at[0], high = at[0];
        for (int64_t x = 1; x < n; ++x) low = min64(low, at[x]), high = max64(high, at[x]);
        int32_t near[BK], far[BK];
        for (int64_t y = 0; y < w; ++y) near[y] = bucket(low - keys[y], buckets);
        for (int64_t y = 0; y < w; ++y) far[y] = bucket(high - keys[y], buckets);
        for (int64_t y = 0; y < w; ++y) {
            if (near[y] == far[y] && (low >= keys[y] || high <= keys[y])) one(y, 1 + near[y]);
            else each(y);
        }
    }

    void add(int64_t row, int64_t h, int64_t i0, int64_t n, int64_t j0, int64_t w, int64_t width, float* s) const {
        if (!table) return;
        const float* bias = table + h * step;
        const int64_t *at = query + q_offsets[row] + i0, *keys = key + k_offsets[row] + j0;
        const int32_t* mine = own + q_offsets[row] + i0;
        float self[BQ];
        for (int64_t x = 0; x < n; ++x)
            if (mine[x] >= j0 && mine[x] < j0 + w) self[x] = s[(mine[x] - j0) * width + x] + bias[0] * LOG2E;
        for (int64_t x = 0; x < n; x += W) {
            const int64_t some = min64(W, n - x);
            walk(at + x, some, keys, w,
                [&](int64_t y, int32_t b) { store(s + y * width + x, load(s + y * width + x) + splat(bias[b] * LOG2E)); },
                [&](int64_t y) {
                    for (int64_t z = 0; z < some; ++z) s[y * width + x + z] += bias[1 + bucket(at[x + z] - keys[y], buckets)] * LOG2E;
                });
        }
        for (int64_t x = 0; x < n; ++x)
            if (mine[x] >= j0 && mine[x] < j0 + w) s[(mine[x] - j0) * width + x] = self[x];
    }

    // dtable += dS by bucket. Unseen entries of ds are zero, and those beyond n too.
    void add_grads(int64_t row, int64_t h, int64_t i0, int64_t n, int64_t j0, int64_t w, int64_t width, float* ds, float* dtable) const {
        float* sums = dtable + h * step;
        const int64_t *at = query + q_offsets[row] + i0, *keys = key + k_offsets[row] + j0;
        const int32_t* mine = own + q_offsets[row] + i0;
        float self[BQ];
        for (int64_t x = 0; x < n; ++x)
            if (mine[x] >= j0 && mine[x] < j0 + w) {
                float* one = ds + (mine[x] - j0) * width + x;
                self[x] = *one;
                sums[0] += *one;
                *one = 0;
            }
        for (int64_t x = 0; x < n; x += W) {
            const int64_t some = min64(W, n - x);
            vf run{};
            int32_t last = 0;
            auto flush = [&] {
                float total = 0;
                for (int z = 0; z < W; ++z) total += run[z];
                sums[last] += total;
                run = vf{};
            };
            walk(at + x, some, keys, w,
                [&](int64_t y, int32_t b) {
                    if (b != last) flush();
                    last = b;
                    run += load(ds + y * width + x);
                },
                [&](int64_t y) {
                    for (int64_t z = 0; z < some; ++z) sums[1 + bucket(at[x + z] - keys[y], buckets)] += ds[y * width + x + z];
                });
            flush();
        }
        for (int64_t x = 0; x < n; ++x)
            if (mine[x] >= j0 && mine[x] < j0 + w) ds[(mine[x] - j0) * width + x] = self[x];
    }
};

}  // namespace

extern "C" {

// limits and own (int32) hold 64 entries past the last query. table may be null; table_sizes: buckets, a head's stride.
void tl_prefix_forward(const float* q, const float* k, const float* v, const int64_t* strides, const int64_t* q_offsets, const int64_t* k_offsets, const int32_t* limits, const int32_t* own, const int64_t* q_times, const int64_t* k_times, const float* table, const int64_t* table_sizes, int64_t batch, int64_t heads, int64_t kv_heads, int64_t dim, float scale, float* out, float* lse, int threads) {
    Shape shape{batch, heads, kv_heads, dim, q_offsets, k_offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]};
    Times times{table, table_sizes[0], table_sizes[1], q_times, k_times, q_offsets, k_offsets, own};
    auto units = query_tiles(shape);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) { softmax_forward_tile(shape, Prefix{limits, own, q_offsets}, Q, K, V, times, units[u], out, lse); });
}

// g is the gradient of out, delta (heads, queries) = sum(g * out). dtable holds one table a thread, zero on entry.
void tl_prefix_backward(const float* q, const float* k, const float* v, const float* g, const int64_t* strides, const float* lse, const float* delta, const int64_t* q_offsets, const int64_t* k_offsets, const int32_t* limits, const int32_t* own, const int64_t* q_times, const int64_t* k_times, const float* table, const int64_t* table_sizes, int64_t batch, int64_t heads, int64_t kv_heads, int64_t dim, float scale, float* dq, float* dk, float* dv, float* dtable, int64_t table_total, int threads) {
    Shape shape{batch, heads, kv_heads, dim, q_offsets, k_offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]}, G{g, strides[6], strides[7]};
    Times times{table, table_sizes[0], table_sizes[1], q_times, k_times, q_offsets, k_offsets, own};
    auto units = row_heads(shape, false);
    parallel_fixed(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int thread) {
        const int64_t row = units[u].row;
        auto fill = [&](const Prefix& mask, Seen seen, int64_t h, int64_t i, int64_t n, int64_t width, int64_t j, int64_t w, float* s, float* dp) {
            times.add(row, h, i, n, j, w, width, s);
            if (seen == Seen::some) hide(mask, s, width, i, n, j, w, NEVER);
            const int64_t at = h * shape.q_total() + q_offsets[row] + i;
            softmax_slopes(lse + at, delta + at, n, w, width, s, dp);
            if (table) times.add_grads(row, h, i, n, j, w, width, dp, dtable + thread * table_total);
        };
        backward_row(shape, Prefix{limits, own, q_offsets}, Q, K, V, G, row, units[u].head, scale * LOG2E, scale, Grads{dq, dk, dv}, fill);
    });
}

}  // extern "C"
