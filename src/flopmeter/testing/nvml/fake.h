/* What the files of the fake NVML library share. A fake proves our handling, not the hardware.
 *
 * Layouts are written out here from NVIDIA's documentation; a test holds their sizes to those of nvidia-ml-py.
 */
#ifndef FLOPMETER_FAKE_H
#define FLOPMETER_FAKE_H

#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

#define NOT_AVAILABLE (~0ULL)

/* ── the script ── */

/* A figure over time: from at[i] on it is value[i]; before at[0] it is value[0], too. */
typedef struct Series {
    char *key;
    int count;
    int64_t *at;
    int64_t *value;
    double *real;
    __int128 *area; /* the integral of value from 0 to at[i] */
} Series;

typedef struct Text {
    char *key, *value;
} Text;

typedef struct Process {
    char kind; /* c compute, g graphics, m MPS */
    unsigned pid, gi, ci, sm_util, memory_util;
    unsigned long long used;
    int64_t from, until;
} Process;

typedef struct Node {
    uint64_t load; /* which reading of a script made it: handles of an earlier one are stale */
    int index;     /* of the device, of the slot for a MIG instance, -1 for the machine */
    struct Node *parent;
    Text *texts;
    int text_count;
    Series *series;
    int series_count;
    Process *processes;
    int process_count;
    struct Node **migs;
    int mig_count;
} Node;

typedef struct Fault {
    char target[96]; /* a function, `field:N` or `metric:N`; a last `*` stands for any ending */
    int device;      /* -1: whichever */
    int code, hangs, is_nan;
    int64_t sleep_ns, from, until;
    uint64_t from_call, calls; /* counted among the calls that match; calls 0: for ever */
    uint64_t seen;
} Fault;

typedef struct Machine {
    Node system;
    Node **devices;
    int device_count;
    Fault *faults;
    int fault_count;
} Machine;

Machine *read_script(const char *path, uint64_t load);

const char *text(const Node *node, const char *key);
long long number(const Node *node, const char *key, long long fallback);
const Series *series(const Node *node, const char *key);
int64_t value_at(const Series *figure, int64_t t);
double real_at(const Series *figure, int64_t t);
int64_t change_after(const Series *figure, int64_t t);
__int128 area_between(const Series *figure, int64_t from, int64_t to);
long double product_between(const Series *a, const Series *b, int64_t from, int64_t to);

/* ── the state ── */

extern Machine *machine;

int enter(const char *call, const Node *node);
int fault_of(const char *target, int device, int *is_nan);
int fault_of_found(const char *target, int device);
int put_number(const Node *node, const char *key, unsigned *out);
int is_stale(const Node *node);
int64_t now_ns(void);
int64_t stamp_us(int64_t t);
int is_driver_from(int major, int minor);
int64_t last_reset(const Node *node, int64_t t);
uint64_t energy_mj(const Node *node, int64_t t);
unsigned power_mw(const Node *node, int64_t t);
uint64_t throttled_ns(const Node *node, uint64_t reasons, int64_t t);

#define ENTER(call, node)                  \
    do {                                   \
        int code_ = enter(#call, (node));  \
        if (code_ != OK) return code_;     \
    } while (0)

/* As ENTER, for what exists of whole devices only. */
#define ENTER_WHOLE(call, node)                  \
    do {                                         \
        ENTER(call, node);                       \
        if ((node)->parent) return NOT_SUPPORTED; \
    } while (0)

/* ── layouts ── */

typedef union Value {
    double d;
    unsigned u;
    unsigned long ul;
    unsigned long long ull;
    long long sll;
    int i;
    unsigned short us;
} Value;

typedef struct FieldValue {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type, code;
    Value value;
} FieldValue;

typedef struct Sample {
    unsigned long long timestamp;
    Value value;
} Sample;

typedef struct Utilization {
    unsigned gpu, memory;
} Utilization;

typedef struct ProcessSample {
    unsigned pid;
    unsigned long long timestamp;
    unsigned sm, memory, encoder, decoder;
} ProcessSample;

typedef struct ProcessUtilization {
    unsigned long long timestamp;
    unsigned pid, sm, memory, encoder, decoder, jpg, ofa;
} ProcessUtilization;

typedef struct ProcessesUtilization {
    unsigned version, count;
    unsigned long long last_seen;
    ProcessUtilization *entries;
} ProcessesUtilization;

typedef struct ProcessInfo {
    unsigned pid;
    unsigned long long used;
    unsigned gi, ci;
} ProcessInfo;

typedef struct Memory {
    unsigned long long total, free, used;
} Memory;

typedef struct MemoryV2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
} MemoryV2;

typedef struct Pci {
    char legacy_bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} Pci;

typedef struct Attributes {
    unsigned sms, copy_engines, decoders, encoders, jpegs, ofas, gi_slices, ci_slices;
    unsigned long long memory_mb;
} Attributes;

typedef struct GpmSample GpmSample;

typedef struct GpmMetric {
    unsigned id, code;
    double value;
    const char *short_name, *long_name, *unit;
} GpmMetric;

/* The array is as long as the caller's header says: nothing is written past `count`. */
typedef struct GpmMetrics {
    unsigned version, count;
    GpmSample *first, *second;
    GpmMetric metrics[];
} GpmMetrics;

typedef struct GpmSupport {
    unsigned version, is_supported;
} GpmSupport;

typedef struct EventData {
    Node *device;
    unsigned long long type, data;
    unsigned gi, ci;
} EventData;

typedef struct Fabric {
    unsigned char cluster[16];
    unsigned status, clique, state;
} Fabric;

typedef struct FabricV2 {
    unsigned version;
    unsigned char cluster[16];
    unsigned status, clique, state, health;
} FabricV2;

typedef struct FabricV3 {
    unsigned version;
    unsigned char cluster[16];
    unsigned status, clique, state, health;
    unsigned char summary;
} FabricV3;

typedef struct ConfidentialState {
    unsigned environment, feature, dev_tools;
} ConfidentialState;

typedef struct ConfidentialSettings {
    unsigned version, environment, feature, dev_tools, multi_gpu;
} ConfidentialSettings;

typedef struct AttestationReport {
    unsigned has_cec, size, cec_size;
    unsigned char nonce[0x20], report[0x2000], cec[0x1000];
} AttestationReport;

typedef struct Certificate {
    unsigned size, attestation_size;
    unsigned char chain[0x1000], attestation_chain[0x1400];
} Certificate;

typedef struct Pdi {
    unsigned version;
    unsigned long long value;
} Pdi;

typedef struct Platform {
    unsigned version;
    unsigned char guid[16];
    char chassis[16];
    unsigned char slot, tray, host, peer, module;
} Platform;

#endif
