/* What every call goes through: whether the library is initialised, in this process; faults; counts; the clock. */
#include "fake.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 256

/* A file beside the script, mapped by every process and by the test: `fake_nvml.py` has the same layout. */
typedef struct Control {
    uint64_t running;    /* 0: a test advances now_ns; 1: the wall clock does */
    uint64_t now_ns;     /* while not running */
    uint64_t started_ns; /* CLOCK_MONOTONIC at time 0; 0: the first init sets it */
    uint64_t scale_permille;
    uint64_t epoch_us; /* the date of time 0, in microseconds since 1970 */
    uint64_t releases; /* grows to let hanging calls go */
    uint64_t reserved[2];
    struct Slot {
        uint64_t calls, claimed; /* 0 free, 1 being named, 2 named */
        char name[64];
    } slots[SLOTS];
} Control;

Machine *machine;
static Control *control;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;
static int is_open; /* 0 after a reset, until the next init: faults count anew */
static uint64_t load;
static pid_t owner;

static uint64_t monotonic_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + at.tv_nsec;
}

static void sleep_ns(int64_t ns) {
    struct timespec left = {ns / 1000000000, ns % 1000000000};
    nanosleep(&left, NULL);
}

int64_t now_ns(void) {
    if (!control) return 0;
    if (!__atomic_load_n(&control->running, __ATOMIC_ACQUIRE)) return __atomic_load_n(&control->now_ns, __ATOMIC_ACQUIRE);
    return (__int128)(monotonic_ns() - control->started_ns) * control->scale_permille / 1000;
}

int64_t stamp_us(int64_t t) { return (control ? (int64_t)control->epoch_us : 0) + t / 1000; }

static void count_call(const char *call) {
    if (!control) return;
    for (int i = 0; i < SLOTS; i++) {
        struct Slot *slot = &control->slots[i];
        uint64_t free_slot = 0;
        if (__atomic_compare_exchange_n(&slot->claimed, &free_slot, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            strncpy(slot->name, call, sizeof slot->name - 1);
            __atomic_store_n(&slot->claimed, 2, __ATOMIC_RELEASE);
        }
        while (__atomic_load_n(&slot->claimed, __ATOMIC_ACQUIRE) == 1) sched_yield();
        if (!strcmp(slot->name, call)) {
            __atomic_add_fetch(&slot->calls, 1, __ATOMIC_RELAXED);
            return;
        }
    }
}

static int matches(const char *target, const char *name) {
    size_t length = strlen(target);
    if (!strcmp(target, "*")) return !strchr(name, ':'); /* every call, not each field in it */
    if (length && target[length - 1] == '*') return !strncmp(target, name, length - 1);
    return !strcmp(target, name);
}

/* Apply what the script says goes wrong here. With `only_own`, faults of any device were seen to already. */
static int suffer(const char *target, int device, int only_own, int *is_nan) {
    Machine *here = machine;
    for (int i = 0; here && i < here->fault_count; i++) {
        Fault *fault = &here->faults[i];
        int is_own = fault->device == device && device >= 0;
        if (!(is_own || (fault->device < 0 && !only_own)) || !matches(fault->target, target)) continue;
        int64_t t = now_ns();
        if (t < fault->from || t >= fault->until) continue;
        uint64_t seen = __atomic_add_fetch(&fault->seen, 1, __ATOMIC_RELAXED);
        if (seen < fault->from_call || (fault->calls && seen >= fault->from_call + fault->calls)) continue;
        if (fault->sleep_ns) sleep_ns(fault->sleep_ns);
        if (fault->hangs) {
            Control *beside = control; /* a later init may map another */
            uint64_t releases = __atomic_load_n(&beside->releases, __ATOMIC_ACQUIRE);
            while (__atomic_load_n(&beside->releases, __ATOMIC_ACQUIRE) == releases) sleep_ns(1000000);
        }
        if (here != machine || !is_open) return UNINITIALIZED; /* shut down or reset while this call waited */
        if (fault->is_nan && is_nan) *is_nan = 1;
        if (fault->code) return fault->code;
    }
    return OK;
}

int fault_of(const char *target, int device, int *is_nan) { return suffer(target, device, 0, is_nan); }

/* A lookup knows its device late: what is wrong with that one alone. */
int fault_of_found(const char *target, int device) { return suffer(target, device, 1, NULL); }

int is_stale(const Node *node) { return !node || node->load != load; }

/* `node` is NULL where a call is about no device. */
int enter(const char *call, const Node *node) {
    count_call(call);
    if (!machine || !users) return UNINITIALIZED;
    if (owner != getpid()) return number(&machine->system, "code_after_fork", UNKNOWN);
    int about_device = node && node != &machine->system;
    if (about_device && is_stale(node)) return INVALID_ARGUMENT;
    int device = about_device ? (node->parent ? node->parent->index : node->index) : -1;
    return suffer(call, device, 0, NULL);
}

/* ── open and close ── */

static int open_control(const char *script) {
    char path[4096];
    snprintf(path, sizeof path, "%s.control", script);
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (file < 0) return UNKNOWN;
    struct stat found;
    if (fstat(file, &found) || (found.st_size < (off_t)sizeof(Control) && ftruncate(file, sizeof(Control)))) {
        close(file);
        return UNKNOWN;
    }
    void *mapped = mmap(NULL, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return UNKNOWN;
    control = mapped; /* an earlier one stays mapped: a call may hang in it */
    uint64_t unset = 0;
    __atomic_compare_exchange_n(&control->started_ns, &unset, monotonic_ns(), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return OK;
}

static int open_script(void) {
    const char *path = getenv("FLOPMETER_FAKE_NVML");
    if (!path || !*path) return DRIVER_NOT_LOADED;
    Machine *made = read_script(path, load + 1);
    if (!made) return DRIVER_NOT_LOADED;
    int code = open_control(path);
    if (code) return code;
    load++;
    if (is_open && machine->fault_count == made->fault_count) /* the same script again: faults go on */
        for (int i = 0; i < made->fault_count; i++) made->faults[i].seen = machine->faults[i].seen;
    machine = made;
    is_open = 1;
    owner = getpid();
    return OK;
}

static int init(const char *call) {
    pthread_mutex_lock(&lock);
    int code = OK;
    if (owner != getpid()) users = 0; /* a child starts anew */
    if (!users) code = open_script();
    pthread_mutex_unlock(&lock);
    if (code) return code;
    count_call(call);
    if ((code = suffer(call, -1, 0, NULL))) return code;
    pthread_mutex_lock(&lock);
    users++;
    pthread_mutex_unlock(&lock);
    return OK;
}

API int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return init("nvmlInitWithFlags");
}

API int nvmlInit_v2(void) { return init("nvmlInit_v2"); }

API int nvmlShutdown(void) {
    int code = enter("nvmlShutdown", NULL);
    if (code) return code;
    pthread_mutex_lock(&lock);
    if (users) users--; /* the next init reads the script anew, and every handle of now is stale then */
    pthread_mutex_unlock(&lock);
    return OK;
}

/* The mark of a script: what finds this symbol says that nothing was measured (sensors/driver.py). */
API int fake_is_scripted(void) { return 1; }

/* For the test's side: forget everything, whoever has it open. Hanging calls are let go. */
API void fake_reset(void) {
    if (control) __atomic_add_fetch(&control->releases, 1, __ATOMIC_RELEASE);
    pthread_mutex_lock(&lock);
    users = 0;
    is_open = 0; /* what was read stays: a call may be in it */
    load++;
    pthread_mutex_unlock(&lock);
}

/* ── what several files ask ── */

int is_driver_from(int major, int minor) {
    int has_major = 0, has_minor = 0;
    const char *words = text(&machine->system, "driver");
    if (!words || sscanf(words, "%d.%d", &has_major, &has_minor) < 1) return 0;
    return has_major > major || (has_major == major && has_minor >= minor);
}

/* When counters last restarted, by a reset or a reload: 0 where they never did. */
int64_t last_reset(const Node *node, int64_t t) {
    const Series *resets = series(node, "resets");
    int64_t last = 0;
    for (int i = 0; resets && i < resets->count; i++)
        if (resets->at[i] <= t) last = resets->at[i];
    return last;
}

/* The time whose reading the counter shows: it refreshes in steps, and does not while frozen. */
static int64_t shown_at(const Node *node, int64_t t) {
    int64_t refresh = number(node, "energy_refresh_ns", 1);
    const Series *frozen = series(node, "frozen");
    if (frozen && value_at(frozen, t)) {
        int64_t since = t;
        for (int i = 0; i < frozen->count && frozen->at[i] <= t; i++) since = frozen->at[i];
        t = since;
    }
    return t - t % refresh;
}

uint64_t energy_mj(const Node *node, int64_t t) {
    int64_t base = last_reset(node, t), shown = shown_at(node, t);
    const Series *offset = series(node, "energy_offset");
    uint64_t reading = base ? 0 : number(node, "energy_base_mj", 0);
    if (shown > base) reading += (uint64_t)(area_between(series(node, "power"), base, shown) / 1000000000);
    return reading + (offset ? value_at(offset, shown) : 0);
}

/* A mean over a window where the part's documentation says so, else the power of this instant. */
unsigned power_mw(const Node *node, int64_t t) {
    const Series *power = series(node, "power");
    int64_t window = number(node, "power_window_ns", 0);
    if (window <= 0) return value_at(power, t);
    return area_between(power, t - window, t) / window;
}

/* How long any of these clock event reasons held, since the counters last restarted. */
uint64_t throttled_ns(const Node *node, uint64_t reasons, int64_t t) {
    const Series *seen = series(node, "reasons");
    uint64_t sum = 0;
    for (int64_t at = last_reset(node, t); seen && at < t;) {
        int64_t next = change_after(seen, at) < t ? change_after(seen, at) : t;
        if ((uint64_t)value_at(seen, at) & reasons) sum += next - at;
        at = next;
    }
    return sum;
}
