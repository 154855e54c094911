// SiLU attention of HSTU over jagged rows: its masks, its bias tables, forward and backward.
#include "tiles.h"

namespace {

// ---- what is seen -----------------------------------------------------------------------------------------------

struct Hstu {
    int64_t local, tail, prefix, contextual;
    bool target_local;
    const int64_t* targets;  // or null
    int64_t length = 0, history = 0, first = 0;
    void row(int64_t b, int64_t n) {
        length = n;
        history = n - (targets ? targets[b] : 0);
        first = min64(contextual, history);
    }
    bool one(int64_t i, int64_t j) const {
        if (j < first) return true;
        if (i < history) return j <= i && (i - j <= local || i >= history - tail || j < prefix);
        if (i == j) return true;
        return j < history && (!target_local || tail > 0 || history - j <= local || j < prefix);
    }
    Seen tile(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
        if (j0 < first) return j1 <= first ? Seen::all : Seen::some;
        if (i0 >= history && j1 <= history) {
            if (!target_local || tail > 0 || j1 <= prefix || history - j0 <= local) return Seen::all;
            return j0 >= prefix && history - (j1 - 1) > local ? Seen::none : Seen::some;
        }
        if (i1 <= history) {
            if (j0 > i1 - 1) return Seen::none;
            bool below = j1 - 1 <= i0;
            if (j0 < prefix) return below && j1 <= prefix ? Seen::all : Seen::some;
            if (i1 > history - tail) return below && i0 >= history - tail ? Seen::all : Seen::some;
            if (i0 - (j1 - 1) > local) return Seen::none;
            return below && (i1 - 1) - j0 <= local ? Seen::all : Seen::some;
        }
        if (j0 >= history && (j0 >= i1 || j1 <= i0)) return Seen::none;
        return Seen::some;
    }
    // The key tile to visit after the one at j, for queries i0..i1: what lies between the sink and the band is skipped.
    int64_t after(int64_t i0, int64_t i1, int64_t j) const {
        const int64_t next = j + BK, sink = max64(prefix, first), low = i1 > history - tail ? 0 : max64(0, i0 - local) / BK * BK;
        return next >= sink && next < low ? low : next;
    }
    int64_t end(int64_t i1) const { return i1 > history ? length : max64(i1, first); }
    // Whether on this tile the mask is no more than `local` back: most tiles that need a mask at all.
    bool banded(int64_t i1, int64_t j0) const { return i1 <= history - tail && j0 >= first && j0 >= prefix; }
    bool whole(int64_t, int64_t j) const { return j < first; }
    vi lanes_seen(vi i, int64_t j) const {
        if (j < first) return splat(-1);
        const int32_t key = static_cast<int32_t>(j), h = static_cast<int32_t>(history);
        vi past = (i >= splat(key)) & (i < splat(h));
        vi near = j < prefix ? splat(-1) : (i <= splat(static_cast<int32_t>(min64(j + local, INT32_MAX)))) | (i >= splat(static_cast<int32_t>(max64(history - tail, 0))));
        vi seen = (past & near) | (i == splat(key));
        bool open = j < history && (!target_local || tail > 0 || history - j <= local || j < prefix);
        return open ? seen | (i >= splat(h)) : seen;
    }
};

void hide(const Hstu& mask, float* s, int64_t width, int64_t i0, int64_t n, int64_t j0, int64_t keys, float value) {
    if (mask.banded(i0 + n, j0)) fill_unseen(Band{mask.local, 0}, s, width, i0, j0, keys, value);
    else fill_unseen(mask, s, width, i0, j0, keys, value);
}

// ---- SiLU -------------------------------------------------------------------------------------------------------

struct Tables {
    const float *position, *time;  // (table heads, size) or null
    int64_t position_size, time_size;
    int64_t position_step, time_step;  // a head's stride: 0 when the heads share one table
    const int64_t* timestamps;
    bool any() const { return position || time; }
};

INLINE int64_t time_bucket(int64_t gap, int64_t buckets) {
    float x = static_cast<float>(gap < 0 ? -gap : gap);
    x = x < 1 ? 1 : x;
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return min64((bits - 0x3F800000) >> 22, buckets - 1);
}

INLINE int64_t position_at(int64_t gap, int64_t size) { return min64(max64(gap, 0), size - 1); }

void add_tables(const Tables& t, int64_t h, int64_t row0, int64_t i0, int64_t n, int64_t width, int64_t j0, int64_t keys, float* s) {
    if (t.position) {
        const float* table = t.position + h * t.position_step;
        for (int64_t j = 0; j < keys; ++j) {
            const int64_t gap = i0 - (j0 + j);
            float* at = s + j * width;
            if (gap >= 0 && gap + n <= t.position_size)
                for (int64_t i = 0; i < n; ++i) at[i] += table[gap + i];
            else
                for (int64_t i = 0; i < n; ++i) at[i] += table[position_at(gap + i, t.position_size)];
        }
    }
    if (t.time) {
        const float* table = t.time + h * t.time_step;
        const int64_t *query = t.timestamps + row0 + i0, *key = t.timestamps + row0 + j0;
        for (int64_t j = 0; j < keys; ++j)
            for (int64_t i = 0; i < n; ++i) s[j * width + i] += table[time_bucket(query[i] - key[j], t.time_size)];
    }
}

void add_table_grads(const Tables& t, int64_t h, int64_t row0, int64_t i0, int64_t n, int64_t width, int64_t j0, int64_t keys, const float* ds, float* dposition, float* dtime) {
    if (t.position)
        for (int64_t j = 0; j < keys; ++j)
            for (int64_t i = 0; i < n; ++i)
                dposition[h * t.position_step + position_at(i0 + i - j0 - j, t.position_size)] += ds[j * width + i];
    if (t.time) {
        const int64_t *query = t.timestamps + row0 + i0, *key = t.timestamps + row0 + j0;
        for (int64_t j = 0; j < keys; ++j)
            for (int64_t i = 0; i < n; ++i)
                dtime[h * t.time_step + time_bucket(query[i] - key[j], t.time_size)] += ds[j * width + i];
    }
}

void silu_forward_tile(const Shape& shape, Hstu mask, const Jagged& Q, const Jagged& K, const Jagged& V, const Tables& tables, float norm, const Unit& u, float* out) {
    const int64_t dim = shape.dim, keys = shape.k_len(u.row), k0 = shape.k_offsets[u.row];
    const Queries tiles(u.start, min64(BQ * QT, keys - u.start), dim);
    alignas(64) float s[BK * BQ], factor[BQ];
    tiles.pack(Q.at(k0 + u.start, u.head), Q.token, shape.scale);
    mask.row(u.row, keys);
    const int64_t last = u.start + tiles.count;
    for (int64_t j = max64(0, mask.after(u.start, last, -BK)); j < mask.end(last); j = mask.after(u.start, last, j))
        for (int64_t t = 0; t < tiles.tiles(); ++t) {
            const int64_t w = min64(BK, keys - j), i = tiles.first(t), n = tiles.size(t), width = tiles.width(t);
            const Seen seen = mask.tile(i, i + n, j, j + w);
            if (seen == Seen::none) continue;
            matmul(w, width, dim, K.at(k0 + j, u.head), K.token, 1, tiles.qt(t), width, s, width, false);
            if (tables.any()) add_tables(tables, u.head, k0, i, n, width, j, w, s);
            for (int64_t x = 0; x < w * width; x += W) {
                vf z = load(s + x);
                store(s + x, z * sigmoid(z));
            }
            if (seen == Seen::some) hide(mask, s, width, i, n, j, w, 0);
            matmul(dim, width, w, V.at(k0 + j, u.head), 1, V.token, s, width, tiles.ot(t), width, true);
        }
    std::fill(factor, factor + BQ, 1 / norm);
    for (int64_t t = 0; t < tiles.tiles(); ++t)
        unpack_transposed(tiles.ot(t), tiles.width(t), tiles.size(t), dim, factor, out + ((k0 + tiles.first(t)) * shape.heads + u.head) * dim, shape.heads * dim);
}

}  // namespace

extern "C" {

// mask: local, tail, prefix, contextual, target_local. tables: position size, its head stride, time size, its head stride.
void tl_hstu_forward(const float* q, const float* k, const float* v, const int64_t* strides, const int64_t* offsets, const int64_t* targets, int64_t batch, int64_t heads, int64_t dim, const int64_t* mask, const float* position, const float* time, const int64_t* tables, const int64_t* timestamps, float scale, float norm, float* out, int threads) {
    Shape shape{batch, heads, heads, dim, offsets, offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]};
    Hstu seen{mask[0], mask[1], mask[2], mask[3], mask[4] != 0, targets};
    Tables t{position, time, tables[0], tables[2], tables[1], tables[3], timestamps};
    auto units = query_tiles(shape);
    parallel(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int) { silu_forward_tile(shape, seen, Q, K, V, t, norm, units[u], out); });
}

// dposition and dtime hold one table a thread, zero on entry; the caller sums them.
void tl_hstu_backward(const float* q, const float* k, const float* v, const float* g, const int64_t* strides, const int64_t* offsets, const int64_t* targets, int64_t batch, int64_t heads, int64_t dim, const int64_t* mask, const float* position, const float* time, const int64_t* tables, const int64_t* timestamps, float scale, float norm, float* dq, float* dk, float* dv, float* dposition, float* dtime, int64_t position_total, int64_t time_total, int threads) {
    Shape shape{batch, heads, heads, dim, offsets, offsets, scale};
    Jagged Q{q, strides[0], strides[1]}, K{k, strides[2], strides[3]}, V{v, strides[4], strides[5]}, G{g, strides[6], strides[7]};
    Hstu seen_by{mask[0], mask[1], mask[2], mask[3], mask[4] != 0, targets};
    Tables t{position, time, tables[0], tables[2], tables[1], tables[3], timestamps};
    auto units = row_heads(shape, false);
    const vf inverse = splat(1 / norm);
    parallel_fixed(static_cast<int64_t>(units.size()), threads, [&](int64_t u, int thread) {
        const int64_t row = units[u].row, row0 = offsets[row];
        auto fill = [&](const Hstu& mask, Seen seen, int64_t h, int64_t i, int64_t n, int64_t width, int64_t j, int64_t w, float* s, float* dp) {
            if (t.any()) add_tables(t, h, row0, i, n, width, j, w, s);
            for (int64_t x = 0; x < w * width; x += W) {
                vf z = load(s + x), y = sigmoid(z), silu = z * y;
                store(s + x, silu * inverse);
                store(dp + x, load(dp + x) * inverse * (y + silu * (splat(1.0f) - y)));
            }
            if (seen == Seen::some) {
                hide(mask, s, width, i, n, j, w, 0);
                hide(mask, dp, width, i, n, j, w, 0);
            }
            if (t.any()) add_table_grads(t, h, row0, i, n, width, j, w, dp, dposition + thread * position_total, dtime + thread * time_total);
        };
        backward_row(shape, seen_by, Q, K, V, G, row, units[u].head, scale, scale, Grads{dq, dk, dv}, fill);
    });
}

}  // extern "C"
