/* MIG: instances of a device, in slots that have gaps. Power and load exist for whole devices only. */
#include "fake.h"

#include <string.h>

API int nvmlDeviceGetMigMode(Node *node, unsigned *current, unsigned *pending) {
    ENTER_WHOLE(nvmlDeviceGetMigMode, node);
    int code = put_number(node, "mig_mode", current);
    return code ? code : put_number(node, "mig_mode", pending);
}

API int nvmlDeviceGetMaxMigDeviceCount(Node *node, unsigned *out) {
    ENTER_WHOLE(nvmlDeviceGetMaxMigDeviceCount, node);
    *out = number(node, "mig_mode", 0) ? number(node, "mig_slots", 0) : 0;
    return OK;
}

/* Slots have gaps: those between instances answer NOT_FOUND. */
API int nvmlDeviceGetMigDeviceHandleByIndex(Node *node, unsigned index, Node **out) {
    ENTER_WHOLE(nvmlDeviceGetMigDeviceHandleByIndex, node);
    if (!number(node, "mig_mode", 0)) return NOT_SUPPORTED;
    if (index >= (unsigned)number(node, "mig_slots", 0)) return INVALID_ARGUMENT;
    for (int i = 0; i < node->mig_count; i++)
        if (node->migs[i]->index == (int)index) {
            *out = node->migs[i];
            return OK;
        }
    return NOT_FOUND;
}

API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Node *node, Node **out) {
    ENTER(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, node);
    if (!node->parent) return INVALID_ARGUMENT;
    *out = node->parent;
    return OK;
}

API int nvmlDeviceIsMigDeviceHandle(Node *node, unsigned *out) {
    ENTER(nvmlDeviceIsMigDeviceHandle, node);
    *out = node->parent != NULL;
    return OK;
}

#define OF_INSTANCE(call, key)                   \
    API int call(Node *node, unsigned *out) {    \
        ENTER(call, node);                       \
        return put_number(node, key, out);       \
    }

OF_INSTANCE(nvmlDeviceGetGpuInstanceId, "gi")
OF_INSTANCE(nvmlDeviceGetComputeInstanceId, "ci")

API int nvmlDeviceGetAttributes_v2(Node *node, Attributes *out) {
    ENTER(nvmlDeviceGetAttributes_v2, node);
    if (!node->parent) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    out->sms = number(node, "sms", 0);
    out->gi_slices = number(node, "gi_slices", 0);
    out->ci_slices = number(node, "ci_slices", 0);
    out->memory_mb = number(node, "memory_total", 0) >> 20;
    return OK;
}
