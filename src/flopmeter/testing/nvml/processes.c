/* Who runs on a device, by the host's process numbers, and buffered samples. */
#include "fake.h"

#include <stdlib.h>

static int is_there(const Process *one, int64_t t) { return one->from <= t && t < one->until; }

/* A size probe with a null array answers INSUFFICIENT_SIZE and the count, or success where there is none. */
static int list(const Node *node, char kind, unsigned *count, ProcessInfo *out) {
    if (!count) return INVALID_ARGUMENT;
    if (number(node, "mig_mode", 0) && !number(&machine->system, "is_privileged", 0)) return NO_PERMISSION;
    int64_t t = now_ns();
    unsigned room = out ? *count : 0, found = 0;
    for (int i = 0; i < node->process_count; i++) {
        const Process *one = &node->processes[i];
        if (one->kind != kind || !is_there(one, t)) continue;
        if (found < room) out[found] = (ProcessInfo){one->pid, one->used, one->gi, one->ci};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

#define LIST(call, kind)                                               \
    API int call(Node *node, unsigned *count, ProcessInfo *out) {      \
        ENTER(call, node);                                             \
        return list(node, kind, count, out);                           \
    }

LIST(nvmlDeviceGetComputeRunningProcesses_v2, 'c')
LIST(nvmlDeviceGetComputeRunningProcesses_v3, 'c')
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, 'g')
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, 'g')
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, 'm')
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'm')

enum { SAMPLE_NS = 100000000, SAMPLES_MAX = 120 };

/* When the driver last looked. */
static int64_t last_look(int64_t t) { return t - t % SAMPLE_NS; }

static unsigned count_new(const Node *node, int64_t t, unsigned long long last_seen) {
    unsigned found = 0;
    for (int i = 0; i < node->process_count; i++) found += is_there(&node->processes[i], t);
    return (unsigned long long)stamp_us(t) > last_seen ? found : 0;
}

/* Nothing new is NOT_FOUND; some drivers say success and zero entries instead. */
static int nothing_new(void) { return number(&machine->system, "empty_is_success", 0) ? OK : NOT_FOUND; }

API int nvmlDeviceGetProcessUtilization(Node *node, ProcessSample *out, unsigned *count, unsigned long long last_seen) {
    ENTER_WHOLE(nvmlDeviceGetProcessUtilization, node);
    if (number(node, "mig_mode", 0)) return NOT_SUPPORTED;
    int64_t t = last_look(now_ns());
    unsigned room = out ? *count : 0, found = 0;
    *count = count_new(node, t, last_seen);
    if (!*count) return nothing_new();
    if (*count > room) return INSUFFICIENT_SIZE;
    for (int i = 0; i < node->process_count; i++) {
        const Process *one = &node->processes[i];
        if (is_there(one, t)) out[found++] = (ProcessSample){one->pid, stamp_us(t), one->sm_util, one->memory_util, 0, 0};
    }
    return OK;
}

API int nvmlDeviceGetProcessesUtilizationInfo(Node *node, ProcessesUtilization *out) {
    ENTER_WHOLE(nvmlDeviceGetProcessesUtilizationInfo, node);
    if (number(node, "mig_mode", 0)) return NOT_SUPPORTED;
    if (out->version != (1u << 24 | sizeof *out)) return ARGUMENT_VERSION_MISMATCH;
    int64_t t = last_look(now_ns());
    unsigned room = out->entries ? out->count : 0, found = 0;
    out->count = count_new(node, t, out->last_seen);
    if (!out->count) return nothing_new();
    if (out->count > room) return INSUFFICIENT_SIZE;
    for (int i = 0; i < node->process_count; i++) {
        const Process *one = &node->processes[i];
        if (is_there(one, t))
            out->entries[found++] =
                (ProcessUtilization){stamp_us(t), one->pid, one->sm_util, one->memory_util, 0, 0, 0, 0};
    }
    return OK;
}

/* Types 0 power, 1 GPU, 2 memory, 5 SM clock, 6 memory clock, 7 module power; others are not scripted. */
API int nvmlDeviceGetSamples(Node *node, unsigned type, unsigned long long last_seen, unsigned *value_type,
                             unsigned *count, Sample *out) {
    static const char *TYPES[] = {"power", "gpu_util", "memory_util", "", "", "sm_clock", "memory_clock", "module_power"};
    ENTER_WHOLE(nvmlDeviceGetSamples, node);
    const Series *figure = type < 8 ? series(node, TYPES[type]) : NULL;
    int is_load = type == 1 || type == 2;
    if (!figure || (is_load && number(node, "mig_mode", 0))) return NOT_SUPPORTED;
    *value_type = 1;
    if (!out) {
        *count = SAMPLES_MAX;
        return OK;
    }
    if (!*count) return INVALID_ARGUMENT;
    int64_t last = last_look(now_ns());
    unsigned room = *count < SAMPLES_MAX ? *count : SAMPLES_MAX, fresh = 0;
    while (fresh < room && last - (int64_t)fresh * SAMPLE_NS >= 0 &&
           (unsigned long long)stamp_us(last - (int64_t)fresh * SAMPLE_NS) > last_seen)
        fresh++;
    *count = fresh;
    if (!fresh) return NOT_FOUND;
    for (unsigned i = 0; i < fresh; i++) {
        int64_t t = last - (int64_t)(fresh - 1 - i) * SAMPLE_NS;
        out[i].timestamp = stamp_us(t);
        out[i].value.ull = 0;
        out[i].value.u = value_at(figure, t);
    }
    return OK;
}

/* Off, as on most machines: only root turns it on. */
API int nvmlDeviceGetAccountingMode(Node *node, unsigned *out) {
    ENTER_WHOLE(nvmlDeviceGetAccountingMode, node);
    *out = 0;
    return OK;
}
