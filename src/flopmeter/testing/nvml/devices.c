/* The machine, its devices and what each says at once: who it is, and its power, clocks, load, memory and errors. */
#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int put_text(const char *words, char *out, unsigned size) {
    if (!words) return NOT_SUPPORTED;
    if (!out) return INVALID_ARGUMENT;
    if (strlen(words) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, words);
    return OK;
}

/* A MIG instance has its parent's board. */
static const Node *board_of(const Node *node) { return node->parent ? node->parent : node; }

int put_number(const Node *node, const char *key, unsigned *out) {
    if (!text(node, key)) return NOT_SUPPORTED;
    if (!out) return INVALID_ARGUMENT;
    *out = number(node, key, 0);
    return OK;
}

#define BY_TEXT(call, key)                                \
    API int call(Node *node, char *out, unsigned size) {  \
        ENTER(call, node);                                \
        return put_text(text(node, key), out, size);      \
    }

#define BY_BOARD_TEXT(call, key)                              \
    API int call(Node *node, char *out, unsigned size) {      \
        ENTER(call, node);                                    \
        return put_text(text(board_of(node), key), out, size); \
    }

#define BY_NUMBER(call, key)                    \
    API int call(Node *node, unsigned *out) {   \
        ENTER_WHOLE(call, node);                \
        return put_number(node, key, out);      \
    }

#define BY_BOARD_NUMBER(call, key)                  \
    API int call(Node *node, unsigned *out) {       \
        ENTER(call, node);                          \
        return put_number(board_of(node), key, out); \
    }

#define OF_SYSTEM(call, key)                                     \
    API int call(char *out, unsigned size) {                     \
        ENTER(call, NULL);                                       \
        return put_text(text(&machine->system, key), out, size); \
    }

/* ── the machine ── */

OF_SYSTEM(nvmlSystemGetDriverVersion, "driver")
OF_SYSTEM(nvmlSystemGetNVMLVersion, "nvml")

API int nvmlSystemGetCudaDriverVersion(int *out) {
    ENTER(nvmlSystemGetCudaDriverVersion, NULL);
    return put_number(&machine->system, "cuda", (unsigned *)out);
}

API int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    ENTER(nvmlSystemGetCudaDriverVersion_v2, NULL);
    return put_number(&machine->system, "cuda", (unsigned *)out);
}

API const char *nvmlErrorString(unsigned code) {
    static const char *words[] = {
        "The operation was successful", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM",
        "GPU is lost", "GPU requires reset", "GPU access blocked by the operating system",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "ECC not supported on vGPU", "Insufficient Resources", "Frequency not supported",
        "API argument version mismatch", "API has been deprecated", "Not ready", "GPU not found", "Invalid state",
        "Reset type not supported"};
    return code < sizeof words / sizeof *words ? words[code] : "Unknown Error";
}

/* ── handles ── */

API int nvmlDeviceGetCount_v2(unsigned *out) {
    ENTER(nvmlDeviceGetCount_v2, NULL);
    *out = machine->device_count;
    return OK;
}

static int hand_out(const char *call, Node *found, Node **out) {
    if (!found) return NOT_FOUND;
    int code = fault_of_found(call, found->parent ? found->parent->index : found->index);
    if (code == OK) *out = found;
    return code;
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, Node **out) {
    ENTER(nvmlDeviceGetHandleByIndex_v2, NULL);
    const Machine *here = machine;
    if (index >= (unsigned)here->device_count) return INVALID_ARGUMENT;
    return hand_out("nvmlDeviceGetHandleByIndex_v2", here->devices[index], out);
}

static Node *find(const char *key, const char *wanted, int with_mig) {
    const Machine *here = machine;
    for (int i = 0; i < here->device_count; i++) {
        Node *device = here->devices[i];
        const char *has = text(device, key);
        if (has && !strcasecmp(has, wanted)) return device;
        for (int j = 0; with_mig && j < device->mig_count; j++) {
            has = text(device->migs[j], key);
            if (has && !strcasecmp(has, wanted)) return device->migs[j];
        }
    }
    return NULL;
}

/* The whole UUID, as documented: a prefix is CUDA_VISIBLE_DEVICES' business. */
API int nvmlDeviceGetHandleByUUID(const char *uuid, Node **out) {
    ENTER(nvmlDeviceGetHandleByUUID, NULL);
    if (!uuid) return INVALID_ARGUMENT;
    Node *found = find("uuid", uuid, 1);
    int last = !found ? machine->device_count : found->parent ? found->parent->index : found->index;
    /* As documented, a search may meet a lost device on its way, and stop there. */
    for (int i = 0; number(&machine->system, "search_stops_at_lost", 0) && i < last; i++)
        if (fault_of_found("nvmlDeviceGetHandleByUUID", i) == GPU_IS_LOST) return GPU_IS_LOST;
    return hand_out("nvmlDeviceGetHandleByUUID", found, out);
}

API int nvmlDeviceGetHandleBySerial(const char *serial, Node **out) {
    ENTER(nvmlDeviceGetHandleBySerial, NULL);
    if (!serial) return INVALID_ARGUMENT;
    return hand_out("nvmlDeviceGetHandleBySerial", find("serial", serial, 0), out);
}

/* In any spelling: with four or eight digits of the domain, in capitals or not. */
API int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, Node **out) {
    ENTER(nvmlDeviceGetHandleByPciBusId_v2, NULL);
    unsigned wanted[3], has[3];
    if (!bus_id || sscanf(bus_id, "%x:%x:%x", &wanted[0], &wanted[1], &wanted[2]) != 3) return INVALID_ARGUMENT;
    const Machine *here = machine;
    for (int i = 0; i < here->device_count; i++) {
        const char *words = text(here->devices[i], "bus_id");
        if (words && sscanf(words, "%x:%x:%x", &has[0], &has[1], &has[2]) == 3 && !memcmp(has, wanted, sizeof has))
            return hand_out("nvmlDeviceGetHandleByPciBusId_v2", here->devices[i], out);
    }
    return NOT_FOUND;
}

API int nvmlDeviceGetIndex(Node *node, unsigned *out) {
    ENTER_WHOLE(nvmlDeviceGetIndex, node);
    *out = node->index;
    return OK;
}

/* ── identity ── */

BY_TEXT(nvmlDeviceGetName, "name")
BY_TEXT(nvmlDeviceGetUUID, "uuid")
BY_BOARD_TEXT(nvmlDeviceGetSerial, "serial")
BY_BOARD_TEXT(nvmlDeviceGetBoardPartNumber, "board_part")
BY_BOARD_TEXT(nvmlDeviceGetVbiosVersion, "vbios")
BY_BOARD_TEXT(nvmlDeviceGetInforomImageVersion, "inforom")
BY_BOARD_NUMBER(nvmlDeviceGetMinorNumber, "minor")
BY_BOARD_NUMBER(nvmlDeviceGetBoardId, "board_id")
BY_BOARD_NUMBER(nvmlDeviceGetModuleId, "module_id")
BY_BOARD_NUMBER(nvmlDeviceGetMultiGpuBoard, "multi_gpu_board")
BY_BOARD_NUMBER(nvmlDeviceGetBrand, "brand")
BY_BOARD_NUMBER(nvmlDeviceGetArchitecture, "architecture")
BY_NUMBER(nvmlDeviceGetNumGpuCores, "cores")
BY_NUMBER(nvmlDeviceGetPersistenceMode, "persistence")
BY_NUMBER(nvmlDeviceGetComputeMode, "compute_mode")

API int nvmlDeviceGetCudaComputeCapability(Node *node, int *major, int *minor) {
    ENTER(nvmlDeviceGetCudaComputeCapability, node);
    const char *words = text(board_of(node), "capability");
    return words && sscanf(words, "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED;
}

API int nvmlDeviceGetPciInfo_v3(Node *node, Pci *out) {
    ENTER(nvmlDeviceGetPciInfo_v3, node);
    const Node *board = board_of(node);
    const char *bus_id = text(board, "bus_id");
    if (!bus_id) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    sscanf(bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    out->device_id = number(board, "pci_device_id", 0);
    out->subsystem_id = number(board, "pci_subsystem_id", 0);
    snprintf(out->bus_id, sizeof out->bus_id, "%s", bus_id);
    snprintf(out->legacy_bus_id, sizeof out->legacy_bus_id, "%04X:%02X:%02X.0", out->domain & 0xffff, out->bus & 0xff,
             out->device & 0xff);
    return OK;
}

API int nvmlDeviceGetPdi(Node *node, Pdi *out) {
    ENTER_WHOLE(nvmlDeviceGetPdi, node);
    if (out->version != (1u << 24 | sizeof(Pdi))) return ARGUMENT_VERSION_MISMATCH;
    if (!text(node, "pdi")) return NOT_SUPPORTED;
    out->value = strtoull(text(node, "pdi"), NULL, 0);
    return OK;
}

/* Racks of Blackwell and newer: which chassis and slot. */
API int nvmlDeviceGetPlatformInfo(Node *node, Platform *out) {
    ENTER_WHOLE(nvmlDeviceGetPlatformInfo, node);
    if (out->version != (2u << 24 | sizeof(Platform))) return ARGUMENT_VERSION_MISMATCH;
    const char *chassis = text(node, "chassis_serial");
    if (!chassis) return NOT_SUPPORTED;
    memset(out->guid, 0, sizeof *out - sizeof out->version);
    memcpy(out->chassis, chassis, strnlen(chassis, sizeof out->chassis));
    out->slot = number(node, "slot", 0);
    out->module = number(node, "module_id", 0);
    return OK;
}

/* ── power and energy ── */

API int nvmlDeviceGetTotalEnergyConsumption(Node *node, unsigned long long *out) {
    ENTER_WHOLE(nvmlDeviceGetTotalEnergyConsumption, node);
    if (!series(node, "power") || !number(node, "has_energy", 1)) return NOT_SUPPORTED;
    *out = energy_mj(node, now_ns());
    return OK;
}

API int nvmlDeviceGetPowerUsage(Node *node, unsigned *out) {
    ENTER_WHOLE(nvmlDeviceGetPowerUsage, node);
    if (!series(node, "power")) return NOT_SUPPORTED;
    *out = power_mw(node, now_ns());
    return OK;
}

BY_NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
BY_NUMBER(nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
BY_NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_default_mw")

API int nvmlDeviceGetPowerManagementLimitConstraints(Node *node, unsigned *least, unsigned *most) {
    ENTER_WHOLE(nvmlDeviceGetPowerManagementLimitConstraints, node);
    int code = put_number(node, "power_min_mw", least);
    return code ? code : put_number(node, "power_max_mw", most);
}

/* ── load and clocks ── */

API int nvmlDeviceGetUtilizationRates(Node *node, Utilization *out) {
    ENTER_WHOLE(nvmlDeviceGetUtilizationRates, node);
    if (number(node, "mig_mode", 0)) return NOT_SUPPORTED;
    const Series *gpu = series(node, "gpu_util"), *memory = series(node, "memory_util");
    if (!gpu) return NOT_SUPPORTED;
    int64_t t = now_ns();
    *out = (Utilization){value_at(gpu, t), memory ? value_at(memory, t) : 0};
    return OK;
}

static const char *CLOCKS[] = {"graphics_clock", "sm_clock", "memory_clock", "video_clock"};
static const char *MAX_CLOCKS[] = {"max_graphics_clock", "max_sm_clock", "max_memory_clock", "max_video_clock"};

API int nvmlDeviceGetClockInfo(Node *node, unsigned type, unsigned *out) {
    ENTER(nvmlDeviceGetClockInfo, node);
    if (type > 3) return INVALID_ARGUMENT;
    const Series *clock = series(board_of(node), CLOCKS[type]);
    if (!clock) return NOT_SUPPORTED;
    *out = value_at(clock, now_ns());
    return OK;
}

API int nvmlDeviceGetMaxClockInfo(Node *node, unsigned type, unsigned *out) {
    ENTER(nvmlDeviceGetMaxClockInfo, node);
    return type > 3 ? INVALID_ARGUMENT : put_number(board_of(node), MAX_CLOCKS[type], out);
}

static int put_reasons(Node *node, unsigned long long *out) {
    const Series *reasons = series(node, "reasons");
    if (!reasons) return NOT_SUPPORTED;
    *out = value_at(reasons, now_ns());
    return OK;
}

API int nvmlDeviceGetCurrentClocksEventReasons(Node *node, unsigned long long *out) {
    ENTER_WHOLE(nvmlDeviceGetCurrentClocksEventReasons, node);
    return put_reasons(node, out);
}

API int nvmlDeviceGetCurrentClocksThrottleReasons(Node *node, unsigned long long *out) {
    ENTER_WHOLE(nvmlDeviceGetCurrentClocksThrottleReasons, node);
    return put_reasons(node, out);
}

API int nvmlDeviceGetSupportedClocksEventReasons(Node *node, unsigned long long *out) {
    ENTER_WHOLE(nvmlDeviceGetSupportedClocksEventReasons, node);
    *out = 0x1ff;
    return OK;
}

API int nvmlDeviceGetSupportedClocksThrottleReasons(Node *node, unsigned long long *out) {
    ENTER_WHOLE(nvmlDeviceGetSupportedClocksThrottleReasons, node);
    *out = 0x1ff;
    return OK;
}

API int nvmlDeviceGetTemperature(Node *node, unsigned sensor, unsigned *out) {
    ENTER_WHOLE(nvmlDeviceGetTemperature, node);
    const Series *degrees = series(node, "temperature");
    if (sensor) return INVALID_ARGUMENT;
    if (!degrees) return NOT_SUPPORTED;
    *out = value_at(degrees, now_ns());
    return OK;
}

API int nvmlDeviceGetPerformanceState(Node *node, unsigned *out) {
    ENTER_WHOLE(nvmlDeviceGetPerformanceState, node);
    const Series *state = series(node, "performance_state");
    if (!state) return NOT_SUPPORTED;
    *out = value_at(state, now_ns());
    return OK;
}

/* ── memory and its errors ── */

static int put_memory(const Node *node, MemoryV2 *out) {
    const Series *used = series(node, "memory_used");
    if (!text(node, "memory_total") || !used) return NOT_SUPPORTED;
    out->total = number(node, "memory_total", 0);
    out->reserved = number(node, "memory_reserved", 0);
    out->used = value_at(used, now_ns());
    out->free = out->total - out->reserved - out->used;
    return OK;
}

/* The first version counts what is reserved as used. */
API int nvmlDeviceGetMemoryInfo(Node *node, Memory *out) {
    ENTER(nvmlDeviceGetMemoryInfo, node);
    MemoryV2 found;
    int code = put_memory(node, &found);
    if (code == OK) *out = (Memory){found.total, found.free, found.used + found.reserved};
    return code;
}

API int nvmlDeviceGetMemoryInfo_v2(Node *node, MemoryV2 *out) {
    ENTER(nvmlDeviceGetMemoryInfo_v2, node);
    if (out->version != (2u << 24 | sizeof(MemoryV2))) return ARGUMENT_VERSION_MISMATCH;
    return put_memory(node, out);
}

API int nvmlDeviceGetEccMode(Node *node, unsigned *current, unsigned *pending) {
    ENTER_WHOLE(nvmlDeviceGetEccMode, node);
    int code = put_number(node, "ecc_mode", current);
    return code ? code : put_number(node, "ecc_mode", pending);
}

/* Volatile counts restart with the driver; aggregate ones do not. */
API int nvmlDeviceGetTotalEccErrors(Node *node, unsigned type, unsigned counter, unsigned long long *out) {
    ENTER_WHOLE(nvmlDeviceGetTotalEccErrors, node);
    if (type > 1 || counter > 1) return INVALID_ARGUMENT;
    const Series *errors = series(node, type ? "ecc_uncorrected" : "ecc_corrected");
    if (!errors || !number(node, "ecc_mode", 0)) return NOT_SUPPORTED;
    int64_t t = now_ns(), base = last_reset(node, t);
    *out = value_at(errors, t) - (!counter && base ? value_at(errors, base) : 0);
    return OK;
}

API int nvmlDeviceGetRemappedRows(Node *node, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                                  unsigned *failed) {
    ENTER_WHOLE(nvmlDeviceGetRemappedRows, node);
    const Series *rows = series(node, "remapped_rows"), *bad = series(node, "remapped_rows_uncorrected");
    if (!rows) return NOT_SUPPORTED;
    int64_t t = now_ns();
    *corrected = value_at(rows, t);
    *uncorrected = bad ? value_at(bad, t) : 0;
    const Series *waiting = series(node, "remapping_pending"), *failing = series(node, "remapping_failed");
    *pending = waiting ? value_at(waiting, t) : 0;
    *failed = failing ? value_at(failing, t) : 0;
    return OK;
}
