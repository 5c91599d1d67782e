/* CUDA's runtime as far as torch, Triton and vLLM call it: memory is real, kernels are launched and do
 * nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "memory.h"
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <string.h>

#define BIG (64ull << 20) /* as much of pinned memory is cleared */

static volatile int capturing; /* one stream at a time, which is what vLLM does */
static cudaStream_t capstream;
static long capsn;

cudaError_t cudaGetDeviceCount(int *c) {
    *c = 1;
    return 0;
}
cudaError_t cudaGetDevice(int *d) {
    *d = 0;
    return 0;
}
cudaError_t cudaSetDevice(int d) { return 0; }
cudaError_t cudaDeviceReset(void) { return 0; }
cudaError_t cudaInitDevice(int d, unsigned a, unsigned b) { return 0; }
cudaError_t cudaDriverGetVersion(int *v) {
    *v = 13000;
    return 0;
}
cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = 13000;
    return 0;
}
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) {
    *v = attribute(a);
    return 0;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "NVIDIA H200");
    p->totalGlobalMem = TOTAL_BYTES;
    p->sharedMemPerBlock = 49152;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->memPitch = 2147483647;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalConstMem = 65536;
    p->major = 9;
    p->minor = 0;
    p->multiProcessorCount = 132;
    p->canMapHostMemory = 1;
    p->concurrentKernels = 1;
    p->asyncEngineCount = 3;
    p->unifiedAddressing = 1;
    p->memoryBusWidth = 6144;
    p->l2CacheSize = 62914560;
    p->maxThreadsPerMultiProcessor = 2048;
    p->sharedMemPerMultiprocessor = 233472;
    p->regsPerMultiprocessor = 65536;
    p->managedMemory = 1;
    p->sharedMemPerBlockOptin = 232448;
    p->maxBlocksPerMultiProcessor = 32;
    p->reservedSharedMemPerBlock = 1024;
    p->memoryPoolsSupported = 1;
    p->cooperativeLaunch = 1;
    p->pciBusID = 1;
    return 0;
}
cudaError_t cudaDeviceCanAccessPeer(int *c, int a, int b) {
    *c = 0;
    return 0;
}
cudaError_t cudaDeviceEnablePeerAccess(int a, unsigned b) { return 0; }
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *m, int d) {
    *m = (cudaMemPool_t)16;
    return 0;
}
cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) {
    snprintf(s, n, "0000:01:00.0");
    return 0;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *a, int *b) {
    *a = 0;
    *b = -5;
    return 0;
}
cudaError_t cudaDeviceSynchronize(void) { return 0; }
cudaError_t cudaEventCreate(cudaEvent_t *e) {
    *e = (cudaEvent_t)malloc(8);
    return 0;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { return cudaEventCreate(e); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return 0; }
cudaError_t cudaEventElapsedTime(float *f, cudaEvent_t a, cudaEvent_t b) {
    *f = 1.0f;
    return 0;
}
cudaError_t cudaEventQuery(cudaEvent_t e) { return 0; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return 0; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { return 0; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { return 0; }
cudaError_t cudaMalloc(void **p, size_t n) {
    if (device_used() + n > TOTAL_BYTES) {
        *p = 0;
        return cudaErrorMemoryAllocation;
    }
    *p = device_alloc(n);
    return *p ? 0 : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p) {
    device_free(p);
    return 0;
}
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) { return cudaMalloc(p, n); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t s) {
    device_free(p);
    return 0;
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) {
    if (posix_memalign(p, 4096, n ? n : 1)) return 2;
    memset(*p, 0, n < BIG ? n : BIG);
    host_add(*p, n);
    return 0;
}
cudaError_t cudaMallocHost(void **p, size_t n) { return cudaHostAlloc(p, n, 0); }
cudaError_t cudaFreeHost(void *p) {
    host_remove(p);
    free(p);
    return 0;
}
cudaError_t cudaHostGetDevicePointer(void **d, void *h, unsigned f) {
    *d = h;
    return 0;
}
cudaError_t cudaHostRegister(void *p, size_t n, unsigned f) {
    host_add(p, n);
    return 0;
}
cudaError_t cudaHostUnregister(void *p) {
    host_remove(p);
    return 0;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 64;
    a->maxDynamicSharedSizeBytes = 232448;
    a->binaryVersion = 90;
    a->ptxVersion = 90;
    return 0;
}
cudaError_t cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int v) { return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *n, void **f, unsigned v, unsigned long long fl,
                                             enum cudaDriverEntryPointQueryResult *r) {
    *f = dlsym(RTLD_DEFAULT, n);
    char b[200];
    if (!*f) {
        snprintf(b, 200, "%s_v2", n);
        *f = dlsym(RTLD_DEFAULT, b);
    }
    TELL("entry %s -> %p\n", n, *f);
    if (r) *r = *f ? 0 : 1;
    return *f ? 0 : 0;
}
cudaError_t cudaGetDriverEntryPoint(const char *n, void **f, unsigned long long fl,
                                    enum cudaDriverEntryPointQueryResult *r) {
    return cudaGetDriverEntryPointByVersion(n, f, 0, fl, r);
}
const char *cudaGetErrorName(cudaError_t e) { return e ? "cudaErrorFake" : "cudaSuccess"; }
const char *cudaGetErrorString(cudaError_t e) { return e ? "fake error" : "no error"; }
cudaError_t cudaGetLastError(void) { return 0; }
cudaError_t cudaPeekAtLastError(void) { return 0; }
cudaError_t cudaGetSymbolAddress(void **p, const void *s) {
    *p = symbols;
    return 0;
}
cudaError_t cudaGraphDebugDotPrint(cudaGraph_t g, const char *f, unsigned fl) { return 0; }
cudaError_t cudaGraphDestroy(cudaGraph_t g) { return 0; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) { return 0; }
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *n, size_t *c) {
    if (n && *c) n[0] = (cudaGraphNode_t)64;
    *c = 1;
    return 0;
}
cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t n, cudaGraphNode_t *d, cudaGraphEdgeData *e,
                                         size_t *c) {
    *c = 0;
    return 0;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *g, cudaGraph_t a, unsigned long long f) {
    *g = (cudaGraphExec_t)malloc(8);
    return 0;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *g, cudaGraph_t a, unsigned long long f) {
    *g = (cudaGraphExec_t)malloc(8);
    return 0;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) { return 0; }
cudaError_t cudaIpcCloseMemHandle(void *p) { return 0; }
cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *h, cudaEvent_t e) { return 0; }
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *h, void *p) {
    memset(h, 0, sizeof *h);
    return 0;
}
cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *e, cudaIpcEventHandle_t h) { return 1; }
cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcMemHandle_t h, unsigned f) { return 1; }
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *u) {
    if (!capturing) f(u);
    return 0;
}
cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void *u, unsigned fl) {
    f(s, 0, u);
    return 0;
}
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, cudaStream_t st_) {
    return 0;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) { return 0; }
cudaError_t cudaLaunchCooperativeKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, cudaStream_t st_) {
    return 0;
}
cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f) {
    *k = (cudaKernel_t)f;
    return 0;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t s, cudaStream_t st_) {
    return 0;
}
static __thread struct {
    dim3 g, b;
    size_t s;
    void *st;
} cfg;
unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, struct CUstream_st *st_) {
    cfg.g = g;
    cfg.b = b;
    cfg.s = s;
    cfg.st = st_;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *s, void *st_) {
    *g = cfg.g;
    *b = cfg.b;
    *s = cfg.s;
    *(void **)st_ = cfg.st;
    return 0;
}
void **__cudaRegisterFatBinary(void *f) {
    static void *h[4];
    return h;
}
void __cudaRegisterFatBinaryEnd(void **h) {}
void __cudaUnregisterFatBinary(void **h) {}
void __cudaRegisterFunction(void **h, const char *hf, char *df, const char *dn, int tl, void *t, void *b,
                            dim3 *bd, dim3 *gd, int *w) {}
void __cudaRegisterVar(void **h, char *hv, char *da, const char *dn, int e, size_t s, int c, int g) {}
char __cudaInitModule(void **h) { return 1; }
cudaError_t cudaMemGetInfo(size_t *f, size_t *t) {
    *t = TOTAL_BYTES;
    *f = TOTAL_BYTES - device_used() - (600ull << 20);
    return 0;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t m, enum cudaMemPoolAttr a, void *v) {
    *(unsigned long long *)v = 0;
    return 0;
}
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t m, const struct cudaMemAccessDesc *d, size_t n) { return 0; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t m, enum cudaMemPoolAttr a, void *v) { return 0; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t m, size_t n) { return 0; }
cudaError_t cudaMemcpy(void *d, const void *s, size_t n, enum cudaMemcpyKind k) {
    copy(d, s, n);
    return 0;
}
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind k, cudaStream_t t) {
    copy(d, s, n);
    return 0;
}
cudaError_t cudaMemcpyPeerAsync(void *d, int a, const void *s, int b, size_t n, cudaStream_t t) {
    copy(d, s, n);
    return 0;
}
cudaError_t cudaMemcpyToSymbol(const void *y, const void *s, size_t n, size_t o, enum cudaMemcpyKind k) {
    return 0;
}
cudaError_t cudaMemcpyFromSymbol(void *d, const void *y, size_t n, size_t o, enum cudaMemcpyKind k) {
    memset(d, 0, n);
    return 0;
}
cudaError_t cudaMemcpy2DAsync(void *d, size_t dp, const void *s, size_t sp, size_t w, size_t h,
                              enum cudaMemcpyKind k, cudaStream_t t) {
    for (size_t i = 0; i < h; i++) memmove((char *)d + i * dp, (char *)s + i * sp, w);
    return 0;
}
cudaError_t cudaMemset(void *p, int v, size_t n) {
    fill(p, v, n);
    return 0;
}
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t t) {
    fill(p, v, n);
    return 0;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s,
                                                                   unsigned fl) {
    *n = 2;
    return 0;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t s) {
    *n = 2;
    return 0;
}
cudaError_t cudaOccupancyMaxActiveClusters(int *n, const void *f, const cudaLaunchConfig_t *c) {
    *n = 60;
    return 0;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    memset(a, 0, sizeof *a);
    if (is_device(p)) {
        a->type = cudaMemoryTypeDevice;
        a->devicePointer = (void *)p;
    } else if (is_host(p)) {
        a->type = cudaMemoryTypeHost;
        a->hostPointer = a->devicePointer = (void *)p;
    } else {
        a->type = cudaMemoryTypeUnregistered;
        a->hostPointer = (void *)p;
    }
    return 0;
}
cudaError_t cudaProfilerStart(void) { return 0; }
cudaError_t cudaProfilerStop(void) { return 0; }
static cudaError_t mkstream(cudaStream_t *s) {
    *s = (cudaStream_t)calloc(1, 16);
    return 0;
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { return mkstream(s); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { return mkstream(s); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) { return mkstream(s); }
cudaError_t cudaStreamDestroy(cudaStream_t s) { return 0; }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) {
    capturing = 1;
    capstream = s;
    capsn++;
    TELL("begin capture %ld\n", capsn);
    return 0;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    capturing = 0;
    *g = (cudaGraph_t)malloc(8);
    return 0;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *c) {
    *c = (capturing && s == capstream) ? 1 : 0;
    return 0;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *c, unsigned long long *id,
                                     cudaGraph_t *g, const cudaGraphNode_t **d, const cudaGraphEdgeData **e,
                                     size_t *n) {
    *c = (capturing && s == capstream) ? 1 : 0;
    if (id) *id = capsn;
    if (g) *g = (cudaGraph_t)32;
    if (d) *d = 0;
    if (e) *e = 0;
    if (n) *n = 0;
    return 0;
}
cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t s, cudaGraphNode_t *d,
                                                const cudaGraphEdgeData *e, size_t n, unsigned f) {
    return 0;
}
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *p) {
    *p = 0;
    return 0;
}
cudaError_t cudaStreamQuery(cudaStream_t s) { return 0; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return 0; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) { return 0; }
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) { return 0; }
