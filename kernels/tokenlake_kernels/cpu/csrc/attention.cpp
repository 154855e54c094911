// Softmax attention over jagged rows: band masks, grouped heads, dense queries with a bias.
#include "softmax.h"

namespace {

void hide(const Band& mask, float* s, int64_t width, int64_t i0, int64_t, int64_t j0, int64_t keys, float value) {
    fill_unseen(mask, s, width, i0, j0, keys, value);
}

struct Bias {
    const float* data;  // (batch, queries, max_len) or null
    int64_t queries, max_len;
    void add(int64_t row, int64_t, int64_t i0, int64_t n, int64_t j0, int64_t keys, int64_t width, float* s) const {
        if (!data) return;
        const float* bias = data + row * queries * max_len;
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < keys; ++j) s[j * width + i] += bias[(i0 + i) * max_len + j0 + j] * LOG2E;
    }
};

}  // namespace

extern "C" {

// Strides are in floats: (token, head) of q, k, v. lse (heads, queries) may be null; bias may be null.
void tl_attention_forward(const float* q, const float* k, const float* v, const int64_t* strides, const float* bias, const int64_t* q_offsets, const int64_t* k_offsets, int64_t batch, int64_t heads, int64_t kv_heads, int64_t dim, int64_t bias_queries, int64_t bias_len, int64_t left, int64_t right, float scale, float* out, float* lse, int threads) {
    Shape shape{batch, heads, kv_heads, dim, q_offsets, k_offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]};
    Bias b{bias, bias_queries, bias_len};
    auto units = query_tiles(shape);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) { softmax_forward_tile(shape, Band{left, right}, Q, K, V, b, units[u], out, lse); });
}

// g is the gradient of out, delta (heads, queries) = sum(g * out); dbias (batch, queries, max_len) is zero on entry.
void tl_attention_backward(const float* q, const float* k, const float* v, const float* g, const int64_t* strides, const float* bias, const float* lse, const float* delta, const int64_t* q_offsets, const int64_t* k_offsets, int64_t batch, int64_t heads, int64_t kv_heads, int64_t dim, int64_t bias_queries, int64_t bias_len, int64_t left, int64_t right, float scale, float* dq, float* dk, float* dv, float* dbias, int threads) {
    Shape shape{batch, heads, kv_heads, dim, q_offsets, k_offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]}, G{g, strides[6], strides[7]};
    Bias in{bias, bias_queries, bias_len};
    const bool whole = dbias != nullptr;  // the heads of a row share its bias gradient
    auto units = row_heads(shape, whole);
    auto run = [&](int64_t row, int64_t kv) {
        auto fill = [&](const Band& mask, Seen seen, int64_t h, int64_t i, int64_t n, int64_t width, int64_t j, int64_t w, float* s, float* dp) {
            in.add(row, h, i, n, j, w, width, s);
            if (seen == Seen::some) hide(mask, s, width, i, n, j, w, NEVER);
            const int64_t at = h * shape.q_total() + q_offsets[row] + i;
            softmax_slopes(lse + at, delta + at, n, w, width, s, dp);
            if (dbias)
                for (int64_t x = 0; x < n; ++x)
                    for (int64_t y = 0; y < w; ++y) dbias[(row * bias_queries + i + x) * bias_len + j + y] += dp[y * width + x];
        };
        backward_row(shape, Band{left, right}, Q, K, V, G, row, kv, scale * LOG2E, scale, Grads{dq, dk, dv}, fill);
    };
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) {
        if (!whole) return run(units[u].row, units[u].head);
        for (int64_t kv = 0; kv < kv_heads; ++kv) run(units[u].row, kv);
    });
}

}  // extern "C"
