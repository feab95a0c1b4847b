/* Field values, read in one batch. The call succeeds although fields in it fail; numbers moved between drivers. */
#include "fake.h"

#include <stdio.h>

enum { UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3, FIELD_MAX = 308 };

static int put_u(FieldValue *out, const Node *node, const char *key) {
    if (!text(node, key)) return NOT_SUPPORTED;
    out->type = UNSIGNED_INT;
    out->value.u = number(node, key, 0);
    return OK;
}

static int put_ull(FieldValue *out, unsigned long long value) {
    out->type = UNSIGNED_LONG_LONG;
    out->value.ull = value;
    return OK;
}

static int put_series(FieldValue *out, const Series *figure, int64_t t) {
    return figure ? put_ull(out, value_at(figure, t)) : NOT_SUPPORTED;
}

/* A volatile count starts anew with the driver. */
static int put_restarting(FieldValue *out, const Node *node, const char *key, int64_t t) {
    const Series *figure = series(node, key);
    int64_t base = last_reset(node, t);
    return figure ? put_ull(out, value_at(figure, t) - (base ? value_at(figure, base) : 0)) : NOT_SUPPORTED;
}

/* Scope 0 is the GPU, 1 the module, 2 the memory. */
static int put_power(FieldValue *out, const Node *node, int64_t t, int is_mean) {
    static const char *SCOPES[] = {"power", "module_power", "memory_power"};
    const Series *power = out->scope < 3 ? series(node, SCOPES[out->scope]) : NULL;
    if (!power) return NOT_SUPPORTED;
    const int64_t window = 1000000000;
    out->type = UNSIGNED_INT;
    out->value.u = is_mean ? area_between(power, t - window, t) / window : value_at(power, t);
    return OK;
}

static int put_throttled(FieldValue *out, const Node *node, uint64_t reasons, int64_t t) {
    return series(node, "reasons") ? put_ull(out, throttled_ns(node, reasons, t)) : NOT_SUPPORTED;
}

/* 0x20 software thermal, 0x40 hardware thermal, 0x80 power brake. */
static const uint64_t MOVED[] = {0x20, 0x40, 0x80};

static int read_field(FieldValue *out, const Node *node, int64_t t) {
    char key[32];
    snprintf(key, sizeof key, "field.%u", out->field);
    if (series(node, key)) return put_series(out, series(node, key), t);
    int has_moved = is_driver_from(580, 82), knows = is_driver_from(575, 0);
    if (out->field >= 251 && out->field <= 253 && !has_moved)
        return knows ? put_throttled(out, node, MOVED[out->field - 251], t) : NOT_SUPPORTED;
    if (out->field >= 269 && out->field <= 271) {
        if (!has_moved) return INVALID_ARGUMENT;
        return put_throttled(out, node, MOVED[out->field - 269], t);
    }
    switch (out->field) {
    case 1:
    case 2: return put_u(out, node, "ecc_mode");
    case 3: return put_restarting(out, node, "ecc_corrected", t);
    case 4: return put_restarting(out, node, "ecc_uncorrected", t);
    case 5: return put_series(out, series(node, "ecc_corrected"), t);
    case 6: return put_series(out, series(node, "ecc_uncorrected"), t);
    case 74: return put_throttled(out, node, 0x4, t);
    case 75: return put_throttled(out, node, 0x60, t);
    case 76: return put_throttled(out, node, 0x10, t);
    case 83:
    case 191:
        if (out->scope || !series(node, "power") || !number(node, "has_energy", 1)) return NOT_SUPPORTED;
        return put_ull(out, energy_mj(node, t));
    case 142: return put_series(out, series(node, "remapped_rows"), t);
    case 143: return put_series(out, series(node, "remapped_rows_uncorrected"), t);
    case 144: return put_series(out, series(node, "remapping_pending"), t);
    case 145: return put_series(out, series(node, "remapping_failed"), t);
    case 185: return put_power(out, node, t, 1);
    case 186: return put_power(out, node, t, 0);
    case 187: return put_u(out, node, "power_min_mw");
    case 188: return put_u(out, node, "power_max_mw");
    case 189: return put_u(out, node, "power_default_mw");
    case 190:
    case 192: return put_u(out, node, "power_limit_mw");
    case 230: {
        const Series *action = series(node, "recovery_action");
        if (!action) return NOT_SUPPORTED;
        out->type = UNSIGNED_INT;
        out->value.u = value_at(action, t);
        return OK;
    }
    case 251: /* power smoothing, on drivers that moved throttling: it answers, with something else */
    case 252:
    case 253: out->type = UNSIGNED_INT; out->value.u = 0; return OK;
    default: return out->field < FIELD_MAX ? NOT_SUPPORTED : INVALID_ARGUMENT;
    }
}

API int nvmlDeviceGetFieldValues(Node *node, int count, FieldValue *values) {
    ENTER_WHOLE(nvmlDeviceGetFieldValues, node);
    if (count < 1 || !values) return INVALID_ARGUMENT;
    int64_t t = now_ns();
    for (int i = 0; i < count; i++) {
        char target[32];
        FieldValue *one = &values[i];
        snprintf(target, sizeof target, "field:%u", one->field);
        one->timestamp = stamp_us(t);
        one->latency = 0;
        one->value.ull = 0xA5A5A5A5A5A5A5A5ULL; /* whoever reads the wrong member, or a failed one, gets nonsense */
        one->code = fault_of(target, node->index, NULL);
        if (one->code == OK) one->code = read_field(one, node, t);
    }
    return OK;
}
