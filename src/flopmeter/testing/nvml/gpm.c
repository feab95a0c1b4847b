/* GPM: what the pipes did between two samples, as percentages of cycles, and raw cycle counters of newer drivers.
 *
 * Nobody outside NVIDIA has documented whether raw counters are a mean over SMs or their sum, nor whether two samples
 * give the later reading or the difference: the script says which of them this device shows.
 */
#include "fake.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct GpmSample {
    const Node *node;
    int64_t t;
};

/* Raw counter 248 + i counts what percentage PIPES[i] is of; 0: not a counter, -1: every cycle. */
static const int PIPES[] = {-1, 2, 5, 8, 7, 9, 6, 0, 0, 4, 11, 12, 13};

API int nvmlGpmQueryDeviceSupport(Node *node, GpmSupport *out) {
    ENTER(nvmlGpmQueryDeviceSupport, node);
    if (out->version != 1) return ARGUMENT_VERSION_MISMATCH;
    out->is_supported = number(node->parent ? node->parent : node, "has_gpm", 0);
    return OK;
}

API int nvmlGpmSampleAlloc(GpmSample **out) {
    ENTER(nvmlGpmSampleAlloc, NULL);
    *out = calloc(1, sizeof **out);
    return *out ? OK : UNKNOWN;
}

API int nvmlGpmSampleFree(GpmSample *sample) {
    ENTER(nvmlGpmSampleFree, NULL);
    if (!sample) return INVALID_ARGUMENT;
    free(sample);
    return OK;
}

static int take(const Node *node, GpmSample *sample) {
    const Node *board = node->parent ? node->parent : node;
    if (!number(board, "has_gpm", 0)) return NOT_SUPPORTED;
    if (!sample) return INVALID_ARGUMENT;
    int64_t t = now_ns(), refresh = number(board, "gpm_refresh_ns", 1);
    *sample = (GpmSample){node, t - t % refresh};
    return OK;
}

API int nvmlGpmSampleGet(Node *node, GpmSample *sample) {
    ENTER(nvmlGpmSampleGet, node);
    return take(node, sample);
}

API int nvmlGpmMigSampleGet(Node *node, unsigned gi, GpmSample *sample) {
    ENTER_WHOLE(nvmlGpmMigSampleGet, node);
    for (int i = 0; i < node->mig_count; i++)
        if (number(node->migs[i], "gi", -1) == gi) return take(node->migs[i], sample);
    return NOT_FOUND;
}

static const Series *percent_of(const Node *node, int id) {
    char key[32];
    snprintf(key, sizeof key, "gpm.%d", id);
    return series(node, key);
}

/* A percentage of cycles: each instant weighs as much as its clock. Others are means over time. */
static double mean_of(const Node *node, int id, int64_t from, int64_t to) {
    const Series *clock = series(node->parent ? node->parent : node, "sm_clock");
    int is_pipe = (id >= 2 && id <= 9) || (id >= 11 && id <= 13);
    if (!is_pipe) clock = NULL;
    long double whole = product_between(NULL, clock, from, to);
    return whole > 0 ? (double)(product_between(percent_of(node, id), clock, from, to) / whole) : NAN;
}

static double cycles_of(const Node *node, int pipe, int64_t t) {
    const Node *board = node->parent ? node->parent : node;
    const Series *clock = series(board, "sm_clock");
    long double cycles = product_between(pipe > 0 ? percent_of(node, pipe) : NULL, clock, last_reset(board, t), t);
    cycles /= pipe > 0 ? 100 * 1000 : 1000; /* MHz for a nanosecond is a thousandth of a cycle */
    return floorl(!strcmp(text(board, "gpm_cycles"), "sum") ? cycles * number(node, "sms", 1) : cycles);
}

static int read_metric(GpmMetric *out, const GpmSample *first, const GpmSample *second) {
    const Node *node = second->node, *board = node->parent ? node->parent : node;
    int counter = (int)out->id - 248;
    if (counter >= 0 && counter < (int)(sizeof PIPES / sizeof *PIPES) && PIPES[counter]) {
        int pipe = PIPES[counter];
        if (!text(board, "gpm_cycles") || (pipe > 0 && !percent_of(node, pipe))) return NOT_SUPPORTED;
        out->value = cycles_of(node, pipe, second->t);
        if (number(board, "gpm_is_difference", 0)) out->value -= cycles_of(node, pipe, first->t);
        return OK;
    }
    if (!percent_of(node, out->id)) return NOT_SUPPORTED;
    out->value = mean_of(node, out->id, first->t, second->t);
    return OK;
}

API int nvmlGpmMetricsGet(GpmMetrics *get) {
    if (!get) return INVALID_ARGUMENT;
    const Node *node = get->second ? get->second->node : NULL;
    ENTER(nvmlGpmMetricsGet, is_stale(node) ? NULL : node);
    if (get->version != 1) return ARGUMENT_VERSION_MISMATCH;
    if (is_stale(node) || !get->first || get->first->node != node || !get->count) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < get->count; i++) {
        char target[32];
        int is_nan = 0;
        GpmMetric *one = &get->metrics[i];
        snprintf(target, sizeof target, "metric:%u", one->id);
        one->short_name = one->long_name = one->unit = NULL; /* as documented, they may be missing */
        one->code = fault_of(target, node->parent ? node->parent->index : node->index, &is_nan);
        if (one->code == OK) one->code = read_metric(one, get->first, get->second);
        if (is_nan) one->value = NAN;
    }
    return OK;
}
