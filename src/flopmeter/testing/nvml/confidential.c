/* Fabric and confidential computing. Nothing here is signed: the report only echoes the nonce where SPDM puts it. */
#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int put_fabric(const Node *node, FabricV3 *out) {
    const char *cluster = text(node, "fabric_cluster");
    if (!cluster) return NOT_SUPPORTED;
    for (int i = 0; i < 16 && sscanf(cluster + 2 * i, "%2hhx", &out->cluster[i]) == 1; i++) continue;
    out->clique = number(node, "fabric_clique", 0);
    out->state = number(node, "fabric_state", 3);
    out->status = number(node, "fabric_status", 0);
    out->health = number(node, "fabric_health", 0);
    out->summary = number(node, "fabric_summary", 1);
    return OK;
}

API int nvmlDeviceGetGpuFabricInfo(Node *node, Fabric *out) {
    ENTER_WHOLE(nvmlDeviceGetGpuFabricInfo, node);
    FabricV3 found = {0};
    int code = put_fabric(node, &found);
    if (code) return code;
    memcpy(out->cluster, found.cluster, sizeof out->cluster);
    out->status = found.status, out->clique = found.clique, out->state = found.state;
    return OK;
}

/* The caller's struct is as long as its version says. */
API int nvmlDeviceGetGpuFabricInfoV(Node *node, FabricV3 *out) {
    ENTER_WHOLE(nvmlDeviceGetGpuFabricInfoV, node);
    unsigned version = out->version;
    if (version != (2u << 24 | sizeof(FabricV2)) && version != (3u << 24 | sizeof(FabricV3)))
        return ARGUMENT_VERSION_MISMATCH;
    FabricV3 found = {.version = version};
    int code = put_fabric(node, &found);
    if (code == OK) memcpy(out, &found, version & 0xffffff);
    return code;
}

API int nvmlSystemGetConfComputeState(ConfidentialState *out) {
    ENTER(nvmlSystemGetConfComputeState, NULL);
    const Node *system = &machine->system;
    if (!text(system, "cc_environment")) return NOT_SUPPORTED;
    *out = (ConfidentialState){number(system, "cc_environment", 0), number(system, "cc_feature", 0),
                               number(system, "cc_dev_tools", 0)};
    return OK;
}

API int nvmlSystemGetConfComputeSettings(ConfidentialSettings *out) {
    ENTER(nvmlSystemGetConfComputeSettings, NULL);
    const Node *system = &machine->system;
    if (out->version != (1u << 24 | sizeof *out)) return ARGUMENT_VERSION_MISMATCH;
    if (!text(system, "cc_environment")) return NOT_SUPPORTED;
    out->environment = number(system, "cc_environment", 0);
    out->feature = number(system, "cc_feature", 0);
    out->dev_tools = number(system, "cc_dev_tools", 0);
    out->multi_gpu = number(system, "cc_multi_gpu", 0);
    return OK;
}

API int nvmlSystemGetConfComputeGpusReadyState(unsigned *out) {
    ENTER(nvmlSystemGetConfComputeGpusReadyState, NULL);
    if (!number(&machine->system, "cc_feature", 0)) return NOT_SUPPORTED;
    *out = 1;
    return OK;
}

/* An SPDM request of 37 bytes, the nonce at 4, and after it the device's UUID where the measurements would be. */
API int nvmlDeviceGetConfComputeGpuAttestationReport(Node *node, AttestationReport *out) {
    ENTER_WHOLE(nvmlDeviceGetConfComputeGpuAttestationReport, node);
    if (!number(&machine->system, "cc_feature", 0)) return NOT_SUPPORTED;
    memset(out->report, 0, sizeof out->report);
    memcpy(out->report, "\x11\xe0\x01\xff", 4);
    memcpy(out->report + 4, out->nonce, sizeof out->nonce);
    if (number(&machine->system, "cc_forgets_nonce", 0)) out->report[4] ^= 1;
    out->size = 37 + snprintf((char *)out->report + 37, 512, "fake report of %s", text(node, "uuid"));
    out->has_cec = out->cec_size = 0;
    return OK;
}

API int nvmlDeviceGetConfComputeGpuCertificate(Node *node, Certificate *out) {
    ENTER_WHOLE(nvmlDeviceGetConfComputeGpuCertificate, node);
    if (!number(&machine->system, "cc_feature", 0)) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    const char *uuid = text(node, "uuid");
    out->size = snprintf((char *)out->chain, sizeof out->chain, "fake certificate of %s", uuid);
    out->attestation_size =
        snprintf((char *)out->attestation_chain, sizeof out->attestation_chain, "fake attestation chain of %s", uuid);
    return OK;
}

/* ── sizes, for the test that holds them to the bindings' ── */

API long fake_sizeof(const char *name) {
    static const struct {
        const char *name;
        size_t size;
    } SIZES[] = {
        {"c_nvmlFieldValue_t", sizeof(FieldValue)},
        {"c_nvmlValue_t", sizeof(Value)},
        {"c_nvmlSample_t", sizeof(Sample)},
        {"c_nvmlUtilization_t", sizeof(Utilization)},
        {"c_nvmlProcessUtilizationSample_t", sizeof(ProcessSample)},
        {"c_nvmlProcessUtilizationInfo_v1_t", sizeof(ProcessUtilization)},
        {"c_nvmlProcessesUtilizationInfo_v1_t", sizeof(ProcessesUtilization)},
        {"c_nvmlProcessInfo_v2_t", sizeof(ProcessInfo)},
        {"c_nvmlProcessInfo_v3_t", sizeof(ProcessInfo)},
        {"c_nvmlMemory_t", sizeof(Memory)},
        {"c_nvmlMemory_v2_t", sizeof(MemoryV2)},
        {"nvmlPciInfo_t", sizeof(Pci)},
        {"c_nvmlDeviceAttributes", sizeof(Attributes)},
        {"c_nvmlGpmMetric_t", sizeof(GpmMetric)},
        {"c_nvmlGpmMetricsGet_t", offsetof(GpmMetrics, metrics)}, /* without its array */
        {"c_nvmlGpmSupport_t", sizeof(GpmSupport)},
        {"c_nvmlEventData_t", sizeof(EventData)},
        {"c_nvmlGpuFabricInfo_t", sizeof(Fabric)},
        {"c_nvmlGpuFabricInfo_v2_t", sizeof(FabricV2)},
        {"c_nvmlGpuFabricInfo_v3_t", sizeof(FabricV3)},
        {"c_nvmlConfComputeSystemState_t", sizeof(ConfidentialState)},
        {"c_nvmlSystemConfComputeSettings_v1_t", sizeof(ConfidentialSettings)},
        {"c_nvmlConfComputeGpuAttestationReport_t", sizeof(AttestationReport)},
        {"c_nvmlConfComputeGpuCertificate_t", sizeof(Certificate)},
        {"c_nvmlPdi_t", sizeof(Pdi)},
        {"c_nvmlPlatformInfo_v2_t", sizeof(Platform)},
    };
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
        if (!strcmp(SIZES[i].name, name)) return SIZES[i].size;
    return -1;
}
