/* The loops of the point-in-time join (asof.py). Times are int64 nanoseconds; INT64_MIN stands for null. */

#include <stdint.h>

#define NONE INT64_MIN

/* Questions, sorted by (code, time): those of code c are starts[c] to starts[c + 1]. best_*: the newest row that was seen
 * so far of those whose first question this is; best_row -1: none. */
typedef struct {
    const int64_t *starts, *times;
    int64_t *best_time, *best_created, *best_row;
    int32_t strict;  /* a row at the question's own time is not seen */
    int32_t known;   /* a row is not seen before its created time either */
} questions_t;

static int newer(int64_t time, int64_t created, int64_t row, const questions_t *q, int64_t at) {
    if (q->best_row[at] < 0) return 1;
    if (time != q->best_time[at]) return time > q->best_time[at];
    if (created != q->best_created[at]) return created > q->best_created[at];
    return row > q->best_row[at];
}

static void keep(int64_t time, int64_t created, int64_t row, const questions_t *q, int64_t at) {
    q->best_time[at] = time, q->best_created[at] = created, q->best_row[at] = row;
}

/* Take n rows in, numbered from `first`; code -1: nobody asks for it; created may be NULL. */
void tl_asof_feed(const questions_t *q, int64_t n, const int32_t *codes, const int64_t *times, const int64_t *created,
                  int64_t first) {
    for (int64_t i = 0; i < n; i++) {
        int32_t c = codes[i];
        int64_t time = times[i], made = created ? created[i] : 0, from = time;
        if (c < 0 || time == NONE) continue;
        if (q->known && created) {
            if (made == NONE) continue;
            if (made > from) from = made;
        }
        int64_t lo = q->starts[c], stop = q->starts[c + 1], hi = stop;
        while (lo < hi) {
            int64_t mid = lo + (hi - lo) / 2;
            if (q->times[mid] < from || (q->strict && q->times[mid] == from)) lo = mid + 1;
            else hi = mid;
        }
        if (lo < stop && newer(time, made, first + i, q, lo)) keep(time, made, first + i, q, lo);
    }
}

/* What a question may see, all later ones of its code may see too. */
void tl_asof_finish(const questions_t *q, int64_t codes) {
    for (int64_t c = 0; c < codes; c++)
        for (int64_t i = q->starts[c] + 1; i < q->starts[c + 1]; i++)
            if (q->best_row[i - 1] >= 0 && newer(q->best_time[i - 1], q->best_created[i - 1], q->best_row[i - 1], q, i))
                keep(q->best_time[i - 1], q->best_created[i - 1], q->best_row[i - 1], q, i);
}
