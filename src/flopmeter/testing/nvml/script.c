/* Reading a script, and figures over time. The format is described in `testing/fake_devices.py`. */
#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *copy_of(const char *words) {
    char *copy = malloc(strlen(words) + 1);
    return strcpy(copy, words);
}

#define GROW(array, count) ((array) = realloc((array), ((count) + 1) * sizeof *(array)))

static void add_text(Node *node, const char *key, const char *value) {
    GROW(node->texts, node->text_count);
    node->texts[node->text_count++] = (Text){copy_of(key), copy_of(value)};
}

static void add_series(Node *node, const char *key, char *points) {
    GROW(node->series, node->series_count);
    Series *figure = &node->series[node->series_count++];
    *figure = (Series){.key = copy_of(key)};
    char *rest = NULL;
    for (char *point = strtok_r(points, " ", &rest); point; point = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(point, ':');
        if (!value) continue;
        int n = figure->count++;
        GROW(figure->at, n);
        GROW(figure->value, n);
        GROW(figure->real, n);
        GROW(figure->area, n);
        figure->at[n] = strtoll(point, NULL, 10);
        figure->real[n] = strtod(value + 1, NULL);
        figure->value[n] = strtoll(value + 1, NULL, 10);
        figure->area[n] = n ? figure->area[n - 1] + (__int128)figure->value[n - 1] * (figure->at[n] - figure->at[n - 1])
                            : (__int128)figure->value[0] * figure->at[0];
    }
}

static void add_process(Node *node, const char *words) {
    Process one = {0};
    char used[32];
    long long from, until;
    if (sscanf(words, "%c %u %31s %u %u %u %u %lld %lld", &one.kind, &one.pid, used, &one.gi, &one.ci, &one.sm_util,
               &one.memory_util, &from, &until) != 9)
        return;
    one.used = strcmp(used, "-") ? strtoull(used, NULL, 10) : NOT_AVAILABLE;
    one.from = from, one.until = until;
    GROW(node->processes, node->process_count);
    node->processes[node->process_count++] = one;
}

static void add_fault(Machine *made, const char *words) {
    Fault one = {.device = -1};
    long long sleep_ns, from, until;
    unsigned long long from_call, calls;
    if (sscanf(words, "%95s %d %d %lld %d %d %llu %llu %lld %lld", one.target, &one.device, &one.code, &sleep_ns,
               &one.hangs, &one.is_nan, &from_call, &calls, &from, &until) != 10)
        return;
    one.sleep_ns = sleep_ns, one.from_call = from_call, one.calls = calls, one.from = from, one.until = until;
    GROW(made->faults, made->fault_count);
    made->faults[made->fault_count++] = one;
}

static Node *new_node(Node *parent, int index, uint64_t load) {
    Node *node = calloc(1, sizeof *node);
    *node = (Node){.load = load, .index = index, .parent = parent};
    return node;
}

/* Scripts are small and never freed, so that a stale handle is refused and not followed into nothing. */
Machine *read_script(const char *path, uint64_t load) {
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    Machine *made = calloc(1, sizeof *made);
    made->system = (Node){.load = load, .index = -1};
    Node *current = &made->system, *device = NULL;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, file)) > 0) {
        if (line[length - 1] == '\n') line[--length] = 0;
        char *word = line, *rest = strchr(line, ' ');
        if (!rest) continue;
        *rest++ = 0;
        if (!strcmp(word, "device")) {
            GROW(made->devices, made->device_count);
            current = device = new_node(NULL, made->device_count, load);
            made->devices[made->device_count++] = device;
        } else if (!strcmp(word, "mig") && device) {
            GROW(device->migs, device->mig_count);
            current = new_node(device, atoi(rest), load);
            device->migs[device->mig_count++] = current;
        } else if (!strcmp(word, "fault")) {
            add_fault(made, rest);
        } else if (!strcmp(word, "process")) {
            add_process(current, rest);
        } else {
            char *value = strchr(rest, ' ');
            if (!value) continue;
            *value++ = 0;
            if (!strcmp(word, "text")) add_text(current, rest, value);
            if (!strcmp(word, "series")) add_series(current, rest, value);
        }
    }
    free(line);
    fclose(file);
    return made;
}

const char *text(const Node *node, const char *key) {
    for (int i = 0; i < node->text_count; i++)
        if (!strcmp(node->texts[i].key, key)) return node->texts[i].value;
    return NULL;
}

long long number(const Node *node, const char *key, long long fallback) {
    const char *words = text(node, key);
    return words ? strtoll(words, NULL, 0) : fallback;
}

const Series *series(const Node *node, const char *key) {
    for (int i = 0; i < node->series_count; i++)
        if (!strcmp(node->series[i].key, key) && node->series[i].count) return &node->series[i];
    return NULL;
}

/* The last point at or before t, or the first. */
static int point_at(const Series *figure, int64_t t) {
    int low = 0, high = figure->count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (figure->at[middle] <= t)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int64_t value_at(const Series *figure, int64_t t) { return figure->value[point_at(figure, t)]; }

double real_at(const Series *figure, int64_t t) { return figure->real[point_at(figure, t)]; }

int64_t change_after(const Series *figure, int64_t t) {
    int next = t < figure->at[0] ? 0 : point_at(figure, t) + 1;
    return next < figure->count ? figure->at[next] : INT64_MAX;
}

static __int128 area_until(const Series *figure, int64_t t) {
    int i = point_at(figure, t);
    return figure->area[i] + (__int128)figure->value[i] * (t - figure->at[i]);
}

/* Exact: millijoules are floors of whole milliwatt-nanoseconds. */
__int128 area_between(const Series *figure, int64_t from, int64_t to) {
    return area_until(figure, to) - area_until(figure, from);
}

/* The integral of a·b; a missing figure is 1 throughout. */
long double product_between(const Series *a, const Series *b, int64_t from, int64_t to) {
    long double sum = 0;
    for (int64_t t = from; t < to;) {
        int64_t next = to;
        if (a && change_after(a, t) < next) next = change_after(a, t);
        if (b && change_after(b, t) < next) next = change_after(b, t);
        sum += (long double)(a ? real_at(a, t) : 1) * (b ? real_at(b, t) : 1) * (next - t);
        t = next;
    }
    return sum;
}
