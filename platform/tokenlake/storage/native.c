/* The store's inner loops: find the rows that answer each query, copy them, sort rows for writing.
 *
 * A plain C interface without state: Python owns all memory, checks all arguments, and calls with the GIL released.
 * tokens/query.py and storage/native_ops.py hold the same in NumPy, which is the reference, and what ranges without a compiler. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { MAX_THREADS = 16, WANT_LOAD = 1, WANT_CHECK = 2, NO_MEMORY = 4 };

typedef struct {            /* one file; all zero until it is loaded */
    const int64_t *users;   /* by hash64(user) */
    const int32_t *offsets; /* users + 1: rows of each user */
    const int32_t *directory;   /* (1 << directory_bits) + 1: first user of each cell of the users' hashes in this file */
    const int64_t *times;
    uint8_t *block_states;       /* by block of rows: 0 untouched, 1 good, 2 wanted */
    int64_t directory_bits;
    int64_t block_shift;
} segment_t;

typedef struct {            /* a slice of a sorted run: some days of it */
    int64_t start, stop;    /* its rows have start <= time < stop */
    int64_t bits;           /* the hash's top bits choose the file */
    int64_t first;          /* number of its first file */
} slice_t;

typedef struct {            /* rows [start, start + count) of a file; of the tail when segment is -1 */
    int32_t segment, start, count;
} range_t;

typedef struct {
    const segment_t *segments;
    const slice_t *slices;  /* oldest first */
    int64_t n_slices;
    uint8_t *wanted;        /* by file: WANT_LOAD | WANT_CHECK */
    const uint8_t *present; /* by file: whether it exists */
    /* queries */
    int64_t n;
    const int64_t *users, *since, *before; /* since may be NULL */
    int64_t length;
    /* the tail's rows of each query, by time; NULL when there are none */
    const int64_t *tail_offsets, *tail_rows, *tail_times;
    /* out */
    range_t *ranges;            /* query i: from slot(i), newest first */
    int32_t *n_ranges;
    int64_t *offsets;       /* n + 1 */
} find_t;

typedef struct {
    const find_t *find;
    int64_t from, to;
    int status;
} find_job;

static inline uint64_t hash64(int64_t user) {
    uint64_t h = (uint64_t)user;
    h ^= h >> 33;
    h *= 0xFF51AFD7ED558CCDull;
    h ^= h >> 33;
    h *= 0xC4CEB9FE1A85EC53ull;
    return h ^ (h >> 33);
}

/* The first row of [low, high) whose time is not below `wanted`. */
static inline int64_t lower_bound(const int64_t *times, int64_t low, int64_t high, int64_t wanted) {
    int64_t n = high - low;
    while (n > 0) {
        int64_t half = n >> 1;
        int below = times[low + half] < wanted;
        low = below ? low + half + 1 : low;
        n = below ? n - half - 1 : half;
    }
    return low;
}

static inline int64_t slot(const find_t *f, int64_t query) {
    return query * (f->n_slices + 1) + (f->tail_offsets ? 2 * f->tail_offsets[query] : 0);
}

static int want_blocks(const segment_t *s, int64_t from, int64_t to) {
    int missed = 0;
    if (from < to)
        for (int64_t b = from >> s->block_shift, end = (to - 1) >> s->block_shift; b <= end; b++)
            if (s->block_states[b] != 1) s->block_states[b] = 2, missed = WANT_CHECK;
    return missed;
}

/* Merge the query's tail rows into its ranges, newest first; at equal times the tail's rows are the newer ones. */
static int merge_tail(const find_t *f, int64_t query, range_t *ranges, int n_ranges, range_t *scratch, int64_t *total) {
    int64_t low = f->tail_offsets[query], high = f->tail_offsets[query + 1], left = f->length;
    int made = 0;
    memcpy(scratch, ranges, n_ranges * sizeof(range_t));
    for (int i = 0; left > 0 && (i < n_ranges || high > low);) {
        range_t *day = i < n_ranges ? &scratch[i] : NULL;
        const int64_t *times = day ? f->segments[day->segment].times : NULL;
        if (high > low && (!day || f->tail_times[f->tail_rows[high - 1]] >= times[day->start + day->count - 1])) {
            int64_t row = f->tail_rows[--high];
            if (made && ranges[made - 1].segment == -1 && ranges[made - 1].start == row + 1) {
                ranges[made - 1].start--;
                ranges[made - 1].count++;
            } else {
                ranges[made++] = (range_t){-1, (int32_t)row, 1};
            }
            left--;
            continue;
        }
        int64_t from = day->start, end = day->start + day->count;
        if (high > low) { /* only the rows later than the tail's next one */
            from = lower_bound(times, from, end, f->tail_times[f->tail_rows[high - 1]] + 1);
        }
        if (end - from > left) from = end - left;
        ranges[made++] = (range_t){day->segment, (int32_t)from, (int32_t)(end - from)};
        left -= end - from;
        day->count = (int32_t)(from - day->start);
        if (day->count == 0) i++;
    }
    *total = f->length - left;
    return made;
}

typedef struct {            /* a query on its way through the slices */
    uint64_t hash;
    range_t *ranges;
    int64_t left, user_start, user_end, first, last;
    int n_ranges;
    const segment_t *segment;
} walk_t;

/* Queries walk through a slice together, step by step: each step asks for the memory that the next one reads. */
enum { TOGETHER = 16 };

static int step_in(const find_t *f, const slice_t *slice, int64_t q, walk_t *w) {
    w->segment = NULL;
    if (w->left <= 0 || slice->start >= f->before[q] || (f->since && slice->stop <= f->since[q])) return 0;
    int64_t number = slice->first + (slice->bits ? (int64_t)(w->hash >> (64 - slice->bits)) : 0);
    if (!f->present[number]) return 0;
    const segment_t *s = &f->segments[number];
    if (!s->users) {
        f->wanted[number] |= WANT_LOAD;
        return WANT_LOAD;
    }
    w->segment = s;
    __builtin_prefetch(&s->directory[(w->hash << slice->bits) >> (64 - s->directory_bits)]);
    return 0;
}

static void step_directory(const slice_t *slice, walk_t *w) {
    const segment_t *s = w->segment;
    uint64_t cell = (w->hash << slice->bits) >> (64 - s->directory_bits);
    w->user_start = s->directory[cell], w->user_end = s->directory[cell + 1];
    __builtin_prefetch(&s->users[w->user_start]);
    __builtin_prefetch(&s->offsets[w->user_start]);
}

static void step_user(int64_t user, walk_t *w) {
    const segment_t *s = w->segment;
    for (int64_t at = w->user_start; at < w->user_end; at++)
        if (s->users[at] == user) {
            w->first = s->offsets[at], w->last = s->offsets[at + 1];
            for (int64_t row = w->first; row < w->last && row < w->first + 64; row += 8) __builtin_prefetch(&s->times[row]);
            return;
        }
    w->segment = NULL;
}

static int step_rows(const find_t *f, const slice_t *slice, int64_t q, walk_t *w) {
    const segment_t *s = w->segment;
    int64_t before = f->before[q], since = f->since ? f->since[q] : INT64_MIN, number = s - f->segments;
    int64_t until = before < slice->stop ? before : slice->stop, from = since > slice->start ? since : slice->start;
    int64_t stop = lower_bound(s->times, w->first, w->last, until);
    int64_t start = stop - w->left > w->first ? stop - w->left : w->first;
    if (start < stop && s->times[start] < from) start = lower_bound(s->times, start, stop, from);
    if (start < stop) {
        w->ranges[w->n_ranges++] = (range_t){(int32_t)number, (int32_t)start, (int32_t)(stop - start)};
        w->left -= stop - start;
    }
    /* The neighbours too: they prove that the search, which may have read bad bytes, ended where it should. */
    if (!want_blocks(s, start > w->first ? start - 1 : w->first, stop < w->last ? stop + 1 : w->last)) return 0;
    f->wanted[number] |= WANT_CHECK;
    return WANT_CHECK;
}

static void *find_some(void *argument) {
    find_job *job = argument;
    const find_t *f = job->find;
    range_t *scratch = f->tail_offsets ? malloc((f->n_slices + 1) * sizeof(range_t)) : NULL;
    if (f->tail_offsets && !scratch) {
        job->status = NO_MEMORY;
        return NULL;
    }
    walk_t walks[TOGETHER];
    for (int64_t base = job->from; base < job->to; base += TOGETHER) {
        int n = job->to - base < TOGETHER ? (int)(job->to - base) : TOGETHER;
        for (int i = 0; i < n; i++)
            walks[i] = (walk_t){.hash = hash64(f->users[base + i]), .left = f->length, .ranges = f->ranges + slot(f, base + i)};
        for (int64_t p = f->n_slices - 1; p >= 0; p--) {
            const slice_t *slice = &f->slices[p];
            for (int i = 0; i < n; i++) job->status |= step_in(f, slice, base + i, &walks[i]);
            for (int i = 0; i < n; i++)
                if (walks[i].segment) step_directory(slice, &walks[i]);
            for (int i = 0; i < n; i++)
                if (walks[i].segment) step_user(f->users[base + i], &walks[i]);
            for (int i = 0; i < n; i++)
                if (walks[i].segment) job->status |= step_rows(f, slice, base + i, &walks[i]);
        }
        for (int i = 0; i < n; i++) {
            int64_t q = base + i, total = f->length - walks[i].left;
            if (scratch && f->tail_offsets[q + 1] > f->tail_offsets[q])
                walks[i].n_ranges = merge_tail(f, q, walks[i].ranges, walks[i].n_ranges, scratch, &total);
            f->n_ranges[q] = walks[i].n_ranges;
            f->offsets[q + 1] = total;
        }
    }
    free(scratch);
    return NULL;
}

static int within(int threads) { return threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads; }

/* Run jobs of `size` bytes each, the first one in this thread. */
static void run_jobs(void *(*work)(void *), void *jobs, size_t size, int n) {
    pthread_t threads[MAX_THREADS];
    int started = 1;
    for (; started < n; started++)
        if (pthread_create(&threads[started], NULL, work, (char *)jobs + started * size)) break;
    for (int i = started; i < n; i++) work((char *)jobs + i * size); /* no thread to be had */
    work(jobs);
    for (int i = 1; i < started; i++) pthread_join(threads[i], NULL);
}

/* Find the rows of every query. Returns what is wanted before the answer holds: files to load, blocks to check. */
int tl_find(const find_t *f, int threads) {
    find_job jobs[MAX_THREADS];
    threads = within(threads);
    for (int i = 0; i < threads; i++) jobs[i] = (find_job){f, f->n * i / threads, f->n * (i + 1) / threads, 0};
    run_jobs(find_some, jobs, sizeof(find_job), threads);
    int status = 0;
    for (int i = 0; i < threads; i++) status |= jobs[i].status;
    f->offsets[0] = 0;
    for (int64_t q = 0; q < f->n; q++) f->offsets[q + 1] += f->offsets[q];
    return status;
}

typedef struct {
    uint8_t *out;
    int64_t width;                /* bytes of a row */
    const uint8_t *const *bases;  /* by file */
    const uint8_t *tail;
    const int64_t *const *known;  /* a label's known_at, by file; NULL for other columns */
    const int64_t *tail_known;
    uint8_t *known_out;
} column_t;

typedef struct {
    const find_t *find;
    const column_t *columns;
    int64_t n_columns;
    const int64_t *as_of;       /* by query: labels known before are shown */
    int64_t large;                /* whether the output is larger than the caches */
} gather_t;

typedef struct {
    const gather_t *gather;
    int64_t from, to;
} gather_job;

enum { AHEAD = 1024 };

/* Ask for the first bytes of a range, which is copied next. */
static void prefetch_range(const gather_t *g, const range_t *range) {
    if (range->segment < 0) return;
    for (int64_t k = 0; k < g->n_columns; k++) {
        const column_t *c = &g->columns[k];
        const uint8_t *from = c->bases[range->segment] + range->start * c->width;
        int64_t size = range->count * c->width < AHEAD ? range->count * c->width : AHEAD;
        for (int64_t at = 0; at < size; at += 64) __builtin_prefetch(from + at);
    }
}

/* memcpy that leaves the caches alone: for an output larger than they are, it saves reading each line before it is
 * overwritten, a third of all traffic. memcpy does the same by itself, but only for a copy that is large as a whole. */
static void stream(uint8_t *to, const uint8_t *from, size_t size) {
#ifdef __SSE2__
    size_t head = -(uintptr_t)to & 63;
    if (size >= 512) {
        memcpy(to, from, head);
        to += head, from += head, size -= head;
        for (; size >= 64; to += 64, from += 64, size -= 64) {
            if (size > AHEAD) __builtin_prefetch(from + AHEAD); /* the processor's own prefetching ends at a page */
            __m128i a = _mm_loadu_si128((const __m128i *)from), b = _mm_loadu_si128((const __m128i *)from + 1);
            __m128i c = _mm_loadu_si128((const __m128i *)from + 2), d = _mm_loadu_si128((const __m128i *)from + 3);
            _mm_stream_si128((__m128i *)to, a);
            _mm_stream_si128((__m128i *)to + 1, b);
            _mm_stream_si128((__m128i *)to + 2, c);
            _mm_stream_si128((__m128i *)to + 3, d);
        }
    }
#endif
    memcpy(to, from, size);
}

static void copy(uint8_t *to, const uint8_t *from, size_t size) { memcpy(to, from, size); }

/* Streamed bytes are seen by other threads only after a fence. */
static void stream_end(void) {
#ifdef __SSE2__
    _mm_sfence();
#endif
}

static void gather_label(const column_t *c, const range_t *range, int64_t at, int64_t as_of) {
    const int64_t *known = (range->segment < 0 ? c->tail_known : c->known[range->segment]) + range->start;
    const uint8_t *from = (range->segment < 0 ? c->tail : c->bases[range->segment]) + range->start * c->width;
    uint8_t *to = c->out + at * c->width, *flags = c->known_out + at;
    for (int32_t i = 0; i < range->count; i++) flags[i] = known[i] < as_of;
    if (c->width == 1) {
        for (int32_t i = 0; i < range->count; i++) to[i] = from[i] & -flags[i];
        return;
    }
    memcpy(to, from, range->count * c->width);
    for (int32_t i = 0; i < range->count; i++)
        if (!flags[i]) memset(to + i * c->width, 0, c->width);
}

static void *gather_some(void *argument) {
    gather_job *job = argument;
    const gather_t *g = job->gather;
    const find_t *f = g->find;
    for (int64_t q = job->from; q < job->to; q++) {
        const range_t *ranges = f->ranges + slot(f, q);
        int64_t at = f->offsets[q + 1];
        for (int r = 0; r < f->n_ranges[q]; r++) {
            const range_t *range = &ranges[r];
            at -= range->count;
            if (r + 1 < f->n_ranges[q])
                prefetch_range(g, range + 1);
            else if (q + 1 < job->to && f->n_ranges[q + 1])
                prefetch_range(g, f->ranges + slot(f, q + 1));
            for (int64_t k = 0; k < g->n_columns; k++) {
                const column_t *c = &g->columns[k];
                if (c->known) {
                    gather_label(c, range, at, g->as_of[q]);
                    continue;
                }
                const uint8_t *base = range->segment < 0 ? c->tail : c->bases[range->segment];
                (g->large ? stream : copy)(c->out + at * c->width, base + range->start * c->width, range->count * c->width);
            }
        }
    }
    if (g->large) stream_end();
    return NULL;
}

/* Copy the rows that tl_find found. */
void tl_gather(const gather_t *g, int threads) {
    gather_job jobs[MAX_THREADS];
    const find_t *f = g->find;
    int64_t q = 0;
    threads = within(threads);
    for (int i = 0; i < threads; i++) { /* equal rows for each thread */
        int64_t from = q, until = f->offsets[f->n] / threads * (i + 1);
        while (q < f->n && (i == threads - 1 || f->offsets[q] < until)) q++;
        jobs[i] = (gather_job){g, from, q};
    }
    run_jobs(gather_some, jobs, sizeof(gather_job), threads);
}

typedef struct {
    uint64_t hash, time;
    int64_t row;
} key_t_;

typedef struct {
    key_t_ *keys, *spare;
    const int64_t *cuts;
    int64_t from, to, *order;
} sort_job;

static void sort_digits(key_t_ **keys, key_t_ **spare, int64_t n, int by_time) {
    uint64_t all = 0, same = ~(uint64_t)0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t v = by_time ? (*keys)[i].time : (*keys)[i].hash;
        all |= v, same &= v;
    }
    for (int shift = 0; shift < 64; shift += 8) {
        int64_t counts[257] = {0};
        if ((((all ^ same) >> shift) & 255) == 0) continue; /* a digit that all share */
        for (int64_t i = 0; i < n; i++) counts[(((by_time ? (*keys)[i].time : (*keys)[i].hash) >> shift) & 255) + 1]++;
        for (int d = 0; d < 256; d++) counts[d + 1] += counts[d];
        for (int64_t i = 0; i < n; i++)
            (*spare)[counts[((by_time ? (*keys)[i].time : (*keys)[i].hash) >> shift) & 255]++] = (*keys)[i];
        key_t_ *other = *keys;
        *keys = *spare, *spare = other;
    }
}

static void *sort_some(void *argument) {
    sort_job *job = argument;
    for (int64_t b = job->from; b < job->to; b++) {
        int64_t start = job->cuts[b], n = job->cuts[b + 1] - start;
        key_t_ *keys = job->keys + start, *spare = job->spare + start;
        sort_digits(&keys, &spare, n, 1);
        sort_digits(&keys, &spare, n, 0);
        for (int64_t i = 0; i < n; i++) job->order[start + i] = keys[i].row;
    }
    return NULL;
}

/* The order of rows by (hash64(user), time, row). Returns 0, or 1 when there is no memory for it. */
int tl_order(int64_t n, const int64_t *users, const int64_t *times, int64_t *order, int threads) {
    int bits = 1;
    while (bits < 12 && (n >> bits) > 8192) bits++;
    int64_t buckets = (int64_t)1 << bits, *cuts = calloc(2 * buckets + 2, sizeof(int64_t)), *next = cuts + buckets + 1;
    key_t_ *keys = malloc((n + 1) * sizeof(key_t_)), *spare = malloc((n + 1) * sizeof(key_t_));
    int failed = !cuts || !keys || !spare;
    if (!failed) {
        for (int64_t i = 0; i < n; i++) cuts[(hash64(users[i]) >> (64 - bits)) + 1]++;
        for (int64_t b = 0; b < buckets; b++) cuts[b + 1] += cuts[b];
        memcpy(next, cuts, buckets * sizeof(int64_t));
        for (int64_t i = 0; i < n; i++) {
            uint64_t hash = hash64(users[i]);
            keys[next[hash >> (64 - bits)]++] = (key_t_){hash, (uint64_t)times[i] ^ ((uint64_t)1 << 63), i};
        }
        sort_job jobs[MAX_THREADS];
        threads = within(threads);
        for (int i = 0; i < threads; i++)
            jobs[i] = (sort_job){keys, spare, cuts, buckets * i / threads, buckets * (i + 1) / threads, order};
        run_jobs(sort_some, jobs, sizeof(sort_job), threads);
    }
    free(cuts), free(keys), free(spare);
    return failed;
}

typedef struct {
    const uint8_t *from;
    uint8_t *to;
    const int64_t *index;
    int64_t width, start, stop;
} take_job;

static void *take_some(void *argument) {
    take_job *job = argument;
    int64_t w = job->width;
    for (int64_t i = job->start; i < job->stop; i++) {
        if (w == 8)
            memcpy(job->to + i * 8, job->from + job->index[i] * 8, 8);
        else if (w == 1)
            job->to[i] = job->from[job->index[i]];
        else
            memcpy(job->to + i * w, job->from + job->index[i] * w, w);
    }
    return NULL;
}

/* to[i] = from[index[i]], rows of `width` bytes. */
void tl_take(const uint8_t *from, uint8_t *to, const int64_t *index, int64_t n, int64_t width, int threads) {
    take_job jobs[MAX_THREADS];
    threads = within(threads);
    for (int i = 0; i < threads; i++) jobs[i] = (take_job){from, to, index, width, n * i / threads, n * (i + 1) / threads};
    run_jobs(take_some, jobs, sizeof(take_job), threads);
}

typedef struct {
    const uint8_t *from;
    uint8_t *to;
    const int64_t *start, *place, *count;
    int64_t width, first, last;
} move_job;

static void *move_some(void *argument) {
    move_job *job = argument;
    for (int64_t i = job->first; i < job->last; i++)
        memcpy(job->to + job->place[i] * job->width, job->from + job->start[i] * job->width, job->count[i] * job->width);
    return NULL;
}

/* Copy n ranges of rows of `width` bytes: count[i] rows, from row start[i] to row place[i]. */
void tl_move(const uint8_t *from, uint8_t *to, const int64_t *start, const int64_t *place, const int64_t *count, int64_t n,
             int64_t width, int threads) {
    move_job jobs[MAX_THREADS];
    threads = within(threads);
    for (int i = 0; i < threads; i++)
        jobs[i] = (move_job){from, to, start, place, count, width, n * i / threads, n * (i + 1) / threads};
    run_jobs(move_some, jobs, sizeof(move_job), threads);
}

typedef struct {
    const uint8_t *head, *rows;
    uint8_t *to;
    int64_t head_size, width, first, last;
} behind_job;

static void *put_some(void *argument) {
    behind_job *job = argument;
    int64_t whole = job->head_size + job->width;
    for (int64_t i = job->first; i < job->last; i++) {
        memcpy(job->to + i * whole, job->head, job->head_size);
        memcpy(job->to + i * whole + job->head_size, job->rows + i * job->width, job->width);
    }
    return NULL;
}

/* Put each of n rows of `width` bytes behind the same head. */
void tl_behind(const uint8_t *head, int64_t head_size, const uint8_t *rows, int64_t width, int64_t n, uint8_t *to,
               int threads) {
    behind_job jobs[MAX_THREADS];
    threads = within(threads);
    for (int i = 0; i < threads; i++)
        jobs[i] = (behind_job){head, rows, to, head_size, width, n * i / threads, n * (i + 1) / threads};
    run_jobs(put_some, jobs, sizeof(behind_job), threads);
}

/* A hash of each slice data[ends[i], ends[i + 1]): `hash64` folded over its size and its words, the last one zero-padded. */
void tl_digest(const uint8_t *data, const int64_t *ends, int64_t n, uint64_t *out) {
    for (int64_t i = 0; i < n; i++) {
        int64_t left = ends[i + 1] - ends[i];
        uint64_t state = (uint64_t)left;
        for (const uint8_t *at = data + ends[i]; left > 0; at += 8, left -= 8) {
            int64_t word = 0;
            memcpy(&word, at, left < 8 ? left : 8);
            state = hash64((int64_t)(state ^ (uint64_t)word));
        }
        out[i] = state;
    }
}

/* For each range [low[i], high[i]) of ascending values, the first place with a value of at least targets[i]. */
void tl_lower_bound(const int64_t *values, const int64_t *low, const int64_t *high, const int64_t *targets, int64_t n,
                    int64_t *out) {
    for (int64_t i = 0; i < n; i++) {
        int64_t first = low[i], left = high[i] - first;
        while (left > 0) {
            int64_t half = left >> 1;
            int less = values[first + half] < targets[i];
            first = less ? first + half + 1 : first;
            left = less ? left - half - 1 : half;
        }
        out[i] = first;
    }
}

/* Whether all values are finite, of 2 or 4 bytes each. */
int tl_finite(const void *values, int64_t n, int64_t width) {
    uint32_t bad = 0;
    if (width == 2) {
        const uint16_t *v = values;
        uint16_t some = 0;
        for (int64_t i = 0; i < n; i++) some |= (uint16_t)((v[i] & 0x7C00u) == 0x7C00u);
        bad = some;
    } else {
        const uint32_t *v = values;
        for (int64_t i = 0; i < n; i++) bad |= (v[i] & 0x7F800000u) == 0x7F800000u;
    }
    return !bad;
}

/* float16 as float32: the bits in their new places, and the exponent's other bias by a product, which is exact. */
void tl_widen(const uint16_t *restrict from, unsigned char *restrict to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)(from[i] & 0x7FFF) << 13;
        uint32_t special = (from[i] & 0x7C00u) == 0x7C00u ? 0x7F800000u : 0; /* infinities and NaN */
        float value;
        memcpy(&value, &bits, 4);
        value *= 0x1p112f;
        memcpy(&bits, &value, 4);
        bits |= special | (uint32_t)(from[i] & 0x8000) << 16;
        memcpy(to + 4 * i, &bits, 4);
    }
}
