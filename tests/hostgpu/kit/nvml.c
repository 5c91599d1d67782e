/* NVML as far as it is asked: one H200 with all of its memory free.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>
typedef struct {
    unsigned long long total, free, used;
} mem_t;
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned f) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *c) {
    *c = 1;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) {
    *h = (void *)0x1234;
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *u, void **h) {
    *h = (void *)0x1234;
    return 0;
}
int nvmlDeviceGetName(void *h, char *n, unsigned l) {
    strcpy(n, "NVIDIA H200");
    return 0;
}
int nvmlDeviceGetUUID(void *h, char *n, unsigned l) {
    strcpy(n, "GPU-00000000-0000-0000-0000-000000000000");
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *h, int *a, int *b) {
    *a = 9;
    *b = 0;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *h, mem_t *m) {
    m->total = m->free = 143771ull << 20;
    m->used = 0;
    return 0;
}
const char *nvmlErrorString(int e) { return "simulated"; }
int nvmlSystemGetDriverVersion(char *v, unsigned l) {
    strcpy(v, "580.159.04");
    return 0;
}
int nvmlSystemGetCudaDriverVersion_v2(int *v) {
    *v = 13000;
    return 0;
}
int nvmlSystemGetCudaDriverVersion(int *v) {
    *v = 13000;
    return 0;
}
int nvmlInit(void) { return 0; }
int nvmlDeviceGetCount(unsigned *c) {
    *c = 1;
    return 0;
}
int nvmlDeviceGetHandleByIndex(unsigned i, void **h) {
    *h = (void *)0x1234;
    return 0;
}
