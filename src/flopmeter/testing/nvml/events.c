/* Xid, memory and recovery events. What happened before a device was registered is lost, as on Linux. */
#include "fake.h"

#include <stdlib.h>
#include <time.h>

enum { DOUBLE_BIT = 0x2, XID = 0x8, RECOVERY = 0x8000, KIND_COUNT = 3, WATCHES_MAX = 64 };

typedef struct EventSet {
    uint64_t load;
    int count;
    struct {
        Node *node;
        unsigned long long types;
        int64_t seen_until[KIND_COUNT];
    } watches[WATCHES_MAX];
} EventSet;

API int nvmlEventSetCreate(EventSet **out) {
    ENTER(nvmlEventSetCreate, NULL);
    *out = calloc(1, sizeof **out);
    (*out)->load = machine->system.load;
    return OK;
}

API int nvmlEventSetFree(EventSet *set) {
    ENTER(nvmlEventSetFree, NULL);
    free(set);
    return OK;
}

API int nvmlDeviceGetSupportedEventTypes(Node *node, unsigned long long *out) {
    ENTER_WHOLE(nvmlDeviceGetSupportedEventTypes, node);
    if (!number(node, "has_events", 1)) return NOT_SUPPORTED;
    *out = XID | (number(node, "ecc_mode", 0) ? DOUBLE_BIT : 0) | (series(node, "recovery_action") ? RECOVERY : 0);
    return OK;
}

API int nvmlDeviceRegisterEvents(Node *node, unsigned long long types, EventSet *set) {
    ENTER_WHOLE(nvmlDeviceRegisterEvents, node);
    if (!set || set->load != node->load || set->count == WATCHES_MAX) return INVALID_ARGUMENT;
    if (types & ~(unsigned long long)(DOUBLE_BIT | XID | RECOVERY)) return NOT_SUPPORTED;
    set->watches[set->count].node = node;
    set->watches[set->count].types = types;
    for (int kind = 0; kind < KIND_COUNT; kind++) set->watches[set->count].seen_until[kind] = now_ns();
    set->count++;
    return OK;
}

/* The first point after the watch's last one, no later than now. */
static int next_event(EventSet *set, int64_t now, EventData *out) {
    static const struct {
        unsigned long long type;
        const char *key;
    } KINDS[KIND_COUNT] = {{DOUBLE_BIT, "ecc_uncorrected"}, {XID, "xid"}, {RECOVERY, "recovery_action"}};
    int64_t first = INT64_MAX;
    int whose = -1, which = 0;
    for (int i = 0; i < set->count; i++)
        for (int kind = 0; kind < KIND_COUNT; kind++) {
            const Series *events = series(set->watches[i].node, KINDS[kind].key);
            if (!events || !(set->watches[i].types & KINDS[kind].type)) continue;
            int64_t at = change_after(events, set->watches[i].seen_until[kind]);
            if (at > now || at >= first) continue;
            first = at, whose = i, which = kind;
            unsigned gi = KINDS[kind].type == XID ? number(set->watches[i].node, "xid_gi", ~0u) : ~0u;
            *out = (EventData){set->watches[i].node, KINDS[kind].type, value_at(events, at), gi, ~0u};
        }
    if (whose >= 0) set->watches[whose].seen_until[which] = first;
    return whose >= 0;
}

/* One device that fell off the bus spoils the whole set. */
static int lost_of(const EventSet *set) {
    for (int i = 0; i < set->count; i++) {
        int code = fault_of_found("nvmlEventSetWait_v2", set->watches[i].node->index);
        if (code) return code;
    }
    return OK;
}

/* Waits by the wall clock, as the driver would, and looks at the script's. */
API int nvmlEventSetWait_v2(EventSet *set, EventData *out, unsigned timeout_ms) {
    ENTER(nvmlEventSetWait_v2, NULL);
    if (!set || set->load != machine->system.load) return INVALID_ARGUMENT;
    for (unsigned waited = 0;; waited++) {
        if (next_event(set, now_ns(), out)) return OK;
        int code = lost_of(set);
        if (code) return code;
        if (waited >= timeout_ms) return TIMEOUT;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}
