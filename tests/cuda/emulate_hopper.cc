/* SPDX-License-Identifier: Apache-2.0 */
/* The model of what only sm_90a has: products of a warpgroup, the view that they have of shared memory, its barriers. */
#include "cuda/emulate_hopper.h"

#include <stdio.h>
#include <string.h>

#include <list>
#include <vector>

#include "cuda/emulate_inside.h"

namespace emulate
{
namespace
{
enum { WARPS = 32, COLUMNS = 256, ADDRESS = 1024, ATOM = 1024 };
typedef float row8 __attribute__((vector_size(32)));

/* The sums of a warp's lanes that products are to change; d: where the program has them. */
struct sums {
    float (*d[LANES])[4];
    int n;
    int64_t last; /* product */
    float value[16][COLUMNS];
};

struct product {
    sums *to;
    bool add, registers;
    uint64_t a, b;
    const uint32_t *fragment[LANES];
    uint32_t was[LANES][4];
};

struct warp {
    std::list<sums> open;
    std::vector<product> products; /* not waited for */
    int64_t first, done, issued;   /* numbers: of products[0], of the next to happen, of the next to come */
    std::vector<int64_t> groups;   /* `issued` when each was sealed, not waited for */
    bool fenced;
};

struct mbarrier {
    uint64_t *at;
    uint32_t count, pending, phase;
    std::vector<int> waiting;
};

warp warps[WARPS];
std::list<mbarrier> barriers;
std::vector<unsigned char> seen; /* shared memory as products see it */
std::vector<char> dirty;         /* parts of 16 bytes that came since a fence, and which */
std::vector<size_t> parts;
std::vector<int> registers; /* of the threads of each warpgroup */
int most_registers;
bool needed; /* what only sm_90a has */

warp *mine() { return &warps[thread_now() / LANES]; }

bool is_poison(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits == 0xffffffffu;
}

float &of_lane(sums *s, int lane, int i)
{
    return s->value[lane / 4 + 8 * (i % 4 / 2)][i / 4 * 8 + lane % 4 * 2 + i % 2];
}

float number(const void *p)
{
    uint16_t x;
    memcpy(&x, p, sizeof x);
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* 16 bytes of a matrix: the address of unswizzled byte `offset` behind its start. */
size_t part_at(uint64_t descriptor, size_t offset)
{
    size_t at = ((size_t)(descriptor & 0x3fff) << 4) + offset;
    at ^= at >> 3 & 0x70; /* bits 7-9 onto 4-6 */
    if (at < ADDRESS || at - ADDRESS + 16 > now.shared_bytes)
        stop("a matrix of wgmma has byte %zu of shared memory, which has %zu", at - ADDRESS,
             now.shared_bytes);
    return at - ADDRESS;
}

/* Eight parts that are read together, `step` apart. */
void read_parts(uint64_t descriptor, size_t offset, size_t step, const unsigned char *part[8])
{
    const void *banks[8];
    for (int i = 0; i < 8; i++) {
        size_t at = part_at(descriptor, offset + (size_t)i * step);
        part[i] = seen.data() + at;
        banks[i] = now.shared + at;
    }
    count_conflicts(banks);
}

/* `rows` rows of 16 numbers from row `first` on, of a matrix whose rows are in the order of memory ("K-major"). */
void read_rows(uint64_t descriptor, int first, int rows, float (*to)[16])
{
    size_t stride = (size_t)(descriptor >> 32 & 0x3fff) << 4;
    for (int r = 0; r < rows; r += 8)
        for (int half = 0; half < 2; half++) {
            const unsigned char *part[8];
            read_parts(descriptor, (size_t)((first + r) / 8) * stride + (size_t)half * 16, 128, part);
            for (int i = 0; i < 8; i++)
                for (int k = 0; k < 8; k++) to[r + i][8 * half + k] = number(part[i] + 2 * k);
        }
}

/* 16 rows of n numbers ("MN-major"): 64 numbers of a row lie together, then `lead` bytes on. */
void read_columns(uint64_t descriptor, int n, float (*to)[COLUMNS])
{
    size_t lead = (size_t)(descriptor >> 16 & 0x3fff) << 4, stride = (size_t)(descriptor >> 32 & 0x3fff) << 4;
    for (int k = 0; k < 16; k += 8)
        for (int c = 0; c < n; c += 8) {
            const unsigned char *part[8];
            read_parts(descriptor,
                       (size_t)(k / 8) * stride + (size_t)(c / 64) * lead + (size_t)(c % 64 / 8) * 16, 128,
                       part);
            for (int i = 0; i < 8; i++)
                for (int j = 0; j < 8; j++) to[k + i][c + j] = number(part[i] + 2 * j);
        }
}

void happen(warp *w, int number_of_warp, const product &p)
{
    static float a[16][16], b[16][COLUMNS], rows[COLUMNS][16];
    int n = p.to->n;
    if (p.registers) {
        for (int lane = 0; lane < LANES; lane++)
            for (int r = 0; r < 4; r++) {
                int row = lane / 4 + 8 * (r % 2), column = 2 * (lane % 4) + 8 * (r / 2);
                const char *pair = reinterpret_cast<const char *>(&p.was[lane][r]);
                a[row][column] = number(pair), a[row][column + 1] = number(pair + 2);
            }
        read_columns(p.b, n, b);
    } else {
        read_rows(p.a, number_of_warp % 4 * 16, 16, a);
        read_rows(p.b, 0, n, rows);
        for (int k = 0; k < 16; k++)
            for (int c = 0; c < n; c++) b[k][c] = rows[c][k];
    }
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < n; c += 8) {
            row8 sum = {}, right;
            for (int k = 0; k < 16; k++) {
                memcpy(&right, &b[k][c], sizeof right);
                sum += a[r][k] * right;
            }
            for (int i = 0; i < 8; i++) p.to->value[r][c + i] = sum[i] + (p.add ? p.to->value[r][c + i] : 0);
        }
    w->done++;
}

void happen_until(warp *w, int number_of_warp, int64_t end)
{
    while (w->done < end) happen(w, number_of_warp, w->products[(size_t)(w->done - w->first)]);
}

void check_descriptor(uint64_t d)
{
    if (d >> 62 != 1) stop("a matrix of wgmma with swizzle %d, here is only 1", (int)(d >> 62));
    if ((d & 0x38) || (d >> 49 & 7))
        stop("a matrix of wgmma does not begin at a multiple of 1024 bytes: %llx", (unsigned long long)d);
}

struct multiply {
    int n;
    float (*d)[4];
    const uint32_t *registers;
    uint64_t a, b;
    bool add;
};

void issue_to_warp(warp *w, int number_of_warp, void *const *arg)
{
    const multiply *first = static_cast<multiply *>(arg[0]);
    sums *to = nullptr;
    for (sums &s : w->open)
        if (s.d[0] == first->d) to = &s;
    if ((!to || first->registers) && !w->fenced) stop("wgmma without wgmma.fence since the last wait");
    if (to && to->n != first->n) stop("wgmma of another shape on sums that are not waited for");
    if (!to) {
        w->open.emplace_back();
        to = &w->open.back();
        to->n = first->n;
        for (int lane = 0; lane < LANES; lane++) {
            float *d = &static_cast<multiply *>(arg[lane])->d[0][0];
            to->d[lane] = static_cast<multiply *>(arg[lane])->d;
            for (int i = 0; i < to->n / 2; i++) of_lane(to, lane, i) = d[i];
            memset(d, FILL, sizeof(float) * (size_t)to->n / 2);
        }
    }
    product p = {to, first->add, first->registers != nullptr, first->a, first->b, {}, {}};
    for (int lane = 0; lane < LANES; lane++) {
        const multiply *m = static_cast<multiply *>(arg[lane]);
        if (p.registers) {
            p.fragment[lane] = m->registers;
            memcpy(p.was[lane], m->registers, sizeof p.was[lane]);
        }
    }
    to->last = w->issued++;
    w->products.push_back(p);
    if (next_random() % 2) happen_until(w, number_of_warp, w->issued);
}

void issue(void *const *arg)
{
    const multiply *first = static_cast<multiply *>(arg[0]);
    if (!first->registers) check_descriptor(first->a);
    check_descriptor(first->b);
    for (int i = 1; i < GROUP; i++) {
        const multiply *m = static_cast<multiply *>(arg[i]);
        if (m->n != first->n || m->a != first->a || m->b != first->b || m->add != first->add)
            stop("lanes of wgmma name different matrices");
    }
    int at = thread_now() / GROUP * (GROUP / LANES);
    for (int i = 0; i < GROUP / LANES; i++) issue_to_warp(&warps[at + i], at + i, arg + i * LANES);
}

void take_result(const sums &s)
{
    for (int lane = 0; lane < LANES; lane++) {
        float *d = &s.d[lane][0][0];
        for (int i = 0; i < s.n / 2; i++) {
            if (!is_poison(d[i])) stop("sums of wgmma were changed before they were waited for");
            d[i] = of_lane(const_cast<sums *>(&s), lane, i);
        }
    }
}

void wait_for(int groups)
{
    warp *w = mine();
    int64_t end = w->first;
    for (; w->groups.size() > (size_t)groups; w->groups.erase(w->groups.begin())) end = w->groups.front();
    happen_until(w, thread_now() / LANES, end);
    for (; w->first < end; w->first++) {
        const product &p = w->products.front();
        for (int lane = 0; p.registers && lane < LANES; lane++)
            if (memcmp(p.fragment[lane], p.was[lane], sizeof p.was[lane]) != 0)
                stop("a left operand of wgmma was changed before the wait");
        w->products.erase(w->products.begin());
    }
    for (auto s = w->open.begin(); s != w->open.end();) {
        if (s->last < end) {
            take_result(*s);
            s = w->open.erase(s);
        } else ++s;
    }
    w->fenced = false;
}

mbarrier *barrier_at(uint64_t *at)
{
    needed = true;
    for (mbarrier &b : barriers)
        if (b.at == at) return &b;
    stop("an mbarrier that was not made");
}

void arrive_at(void *arg)
{
    mbarrier *b = static_cast<mbarrier *>(arg);
    if (--b->pending) return;
    b->pending = b->count;
    b->phase ^= 1;
    for (int thread : b->waiting) wake(thread);
    b->waiting.clear();
}

bool in_shared(const void *p)
{
    const unsigned char *at = static_cast<const unsigned char *>(p);
    return at >= now.shared && at < now.shared + now.shared_bytes;
}
} // namespace

void hopper_launch() { needed = false; }
bool hopper_used() { return needed; }

void hopper_begin(int threads)
{
    for (warp &w : warps) w = warp();
    barriers.clear();
    seen.assign(now.shared_bytes, FILL);
    dirty.assign(now.shared_bytes / 16 + 1, 0);
    parts.clear();
    most_registers = 65536 / threads / 8 * 8 < 255 ? 65536 / threads / 8 * 8 : 255;
    registers.assign((size_t)(threads + GROUP - 1) / GROUP, most_registers);
}

bool hopper_end(char *text, size_t n)
{
    int sum = 0;
    for (int r : registers) sum += r;
    for (const warp &w : warps)
        if (!w.products.empty()) {
            snprintf(text, n, "products of wgmma are left at the end");
            return true;
        }
    if (sum <= most_registers * (int)registers.size()) return false;
    snprintf(text, n, "warpgroups took %d registers, the block has %d", sum,
             most_registers * (int)registers.size());
    return true;
}

void going(const void *to)
{
    if (in_shared(to)) memset(seen.data() + (static_cast<const unsigned char *>(to) - now.shared), FILL, 16);
}

void landed(const void *to)
{
    if (!in_shared(to)) return;
    size_t part = (size_t)(static_cast<const unsigned char *>(to) - now.shared) / 16;
    if (!dirty[part]) parts.push_back(part);
    dirty[part] = 1;
}

void multiply_group(int n, float (*d)[4], const uint32_t *a_registers, uint64_t a, uint64_t b, bool add,
                    const char *file, int line)
{
    needed = true;
    multiply m = {n, d, a_registers, a, b, add};
    together("wgmma", file, line, &m, issue, GROUP);
}

void wait_group(int groups, const char *file, int line)
{
    int all = groups;
    together("wgmma.wait_group", file, line, &all,
             [](void *const *arg) { wait_for(*static_cast<int *>(arg[0])); });
}

struct wanted {
    int n;
    bool take;
};

void set_registers(int n, bool take, const char *file, int line)
{
    needed = true;
    wanted want = {n, take};
    together(
        "setmaxnreg", file, line, &want,
        [](void *const *arg) {
            const wanted *w = static_cast<wanted *>(arg[0]);
            int &have = registers[(size_t)(thread_now() / GROUP)];
            if (w->n % 8 || w->n < 24 || w->n > 256 || (w->take ? w->n < have : w->n > have))
                stop("setmaxnreg from %d to %d registers", have, w->n);
            have = w->n;
        },
        GROUP);
}
} // namespace emulate

using namespace emulate;

uint64_t t3v_descriptor(const void *shared, uint32_t lead)
{
    check(shared, 16, 16, true, "a matrix of wgmma at");
    uint64_t at = (uint64_t)(static_cast<const unsigned char *>(shared) - now.shared) + ADDRESS;
    return at >> 4 | (uint64_t)(lead >> 4) << 16 | (uint64_t)(ATOM >> 4) << 32 | (uint64_t)1 << 62;
}

void t3v_wgmma_fence(const char *file, int line)
{
    together("wgmma.fence", file, line, nullptr, [](void *const *) { mine()->fenced = true; });
}

void t3v_wgmma_commit(const char *file, int line)
{
    together("wgmma.commit_group", file, line, nullptr,
             [](void *const *) { mine()->groups.push_back(mine()->issued); });
}

void t3v_proxy_fence()
{
    for (size_t part : parts) {
        memcpy(seen.data() + 16 * part, now.shared + 16 * part, 16);
        dirty[part] = 0;
    }
    parts.clear();
}

void t3v_mbarrier_make(uint64_t *b, uint32_t count)
{
    check(b, sizeof *b, sizeof *b, true, "mbarrier.init at");
    if (!count) stop("an mbarrier of nobody");
    barriers.push_back({b, count, count, 0, {}});
}

void t3v_mbarrier_arrive(uint64_t *b) { arrive_at(barrier_at(b)); }

/* The arrival is asynchronous; that the copies' memory may be read follows from a wait for it. */
void t3v_mbarrier_arrive_copies(uint64_t *b) { after_copies(arrive_at, barrier_at(b)); }

void t3v_mbarrier_wait(uint64_t *b, uint32_t parity, const char *file, int line)
{
    mbarrier *m = barrier_at(b);
    while (m->phase == parity) {
        m->waiting.push_back(thread_now());
        sleep("mbarrier", file, line);
    }
}
