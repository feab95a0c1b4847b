/* Functions that other tools ask for and no script has: they are there, and not supported on this part. */
#include "fake.h"

#define ABSENT(call)               \
    API int call(Node *node) {     \
        ENTER(call, node);         \
        return NOT_SUPPORTED;      \
    }

ABSENT(nvmlDeviceGetAccountingBufferSize)
ABSENT(nvmlDeviceGetAccountingPids)
ABSENT(nvmlDeviceGetAccountingStats)
ABSENT(nvmlDeviceGetApplicationsClock)
ABSENT(nvmlDeviceGetBAR1MemoryInfo)
ABSENT(nvmlDeviceGetConfComputeMemSizeInfo)
ABSENT(nvmlDeviceGetConfComputeProtectedMemoryUsage)
ABSENT(nvmlDeviceGetCurrPcieLinkGeneration)
ABSENT(nvmlDeviceGetCurrPcieLinkWidth)
ABSENT(nvmlDeviceGetDisplayActive)
ABSENT(nvmlDeviceGetDisplayMode)
ABSENT(nvmlDeviceGetFanSpeed)
ABSENT(nvmlDeviceGetMaxPcieLinkGeneration)
ABSENT(nvmlDeviceGetMaxPcieLinkWidth)
ABSENT(nvmlDeviceGetMemoryErrorCounter)
ABSENT(nvmlDeviceGetNvLinkState)
ABSENT(nvmlDeviceGetPcieThroughput)
ABSENT(nvmlDeviceGetPowerManagementMode)
ABSENT(nvmlDeviceGetPowerState)
ABSENT(nvmlDeviceGetRunningProcessDetailList)
ABSENT(nvmlDeviceGetSupportedMemoryClocks)
ABSENT(nvmlDeviceGetViolationStatus)

/* Engines for video: idle. */
#define IDLE(call)                                                       \
    API int call(Node *node, unsigned *percent, unsigned *period_us) {   \
        ENTER_WHOLE(call, node);                                         \
        if (number(node, "mig_mode", 0)) return NOT_SUPPORTED;           \
        *percent = 0, *period_us = 167000;                               \
        return OK;                                                       \
    }

IDLE(nvmlDeviceGetEncoderUtilization)
IDLE(nvmlDeviceGetDecoderUtilization)
