/* CUDA's driver as far as torch, Triton and vLLM call it. Green contexts and multicast are refused, so that
 * nobody takes them for there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "memory.h"
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <string.h>

#undef cuMemAlloc
static CUcontext ctx(void) { return (CUcontext)0x77; }
CUresult cuInit(unsigned f) { return 0; }
CUresult cuDriverGetVersion(int *v) {
    *v = 13000;
    return 0;
}
CUresult cuDeviceGetCount(int *c) {
    *c = 1;
    return 0;
}
CUresult cuDeviceGet(CUdevice *d, int i) {
    *d = 0;
    return 0;
}
CUresult cuDeviceGetName(char *n, int l, CUdevice d) {
    snprintf(n, l, "NVIDIA H200");
    return 0;
}
CUresult cuDeviceTotalMem_v2(size_t *t, CUdevice d) {
    *t = TOTAL_BYTES;
    return 0;
}
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
    *v = attribute(a);
    return 0;
}
CUresult cuCtxGetCurrent(CUcontext *c) {
    *c = ctx();
    return 0;
}
CUresult cuCtxSetCurrent(CUcontext c) { return 0; }
CUresult cuCtxPushCurrent_v2(CUcontext c) { return 0; }
CUresult cuCtxPopCurrent_v2(CUcontext *c) {
    *c = ctx();
    return 0;
}
CUresult cuCtxGetDevice(CUdevice *d) {
    *d = 0;
    return 0;
}
CUresult cuCtxSynchronize(void) { return 0; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) {
    *c = ctx();
    return 0;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) { return 0; }
CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *a) {
    if (f) *f = 0;
    *a = 1;
    return 0;
}
CUresult cuGetErrorString(CUresult e, const char **s) {
    *s = e ? "fake error" : "no error";
    return 0;
}
CUresult cuGetErrorName(CUresult e, const char **s) {
    *s = "FAKE";
    return 0;
}
CUresult cuModuleLoad(CUmodule *m, const char *f) {
    *m = (CUmodule)malloc(8);
    TELL("cuModuleLoad %s\n", f);
    return 0;
}
CUresult cuModuleLoadData(CUmodule *m, const void *i) {
    *m = (CUmodule)malloc(8);
    TELL("cuModuleLoadData\n");
    return 0;
}
CUresult cuModuleLoadDataEx(CUmodule *m, const void *i, unsigned n, CUjit_option *o, void **v) {
    *m = (CUmodule)malloc(8);
    return 0;
}
CUresult cuModuleUnload(CUmodule m) { return 0; }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *n) {
    *f = (CUfunction)malloc(8);
    TELL("kernel %s\n", n);
    return 0;
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr *p, size_t *n, CUmodule m, const char *s) {
    *p = (CUdeviceptr)symbols;
    if (n) *n = 4096;
    return 0;
}
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
    *v = a == 0 ? 1024 : a == 4 ? 64 : 0;
    return 0;
}
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) { return 0; }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache c) { return 0; }
CUresult cuKernelGetFunction(CUfunction *f, CUkernel k) {
    *f = (CUfunction)k;
    return 0;
}
CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g,
                        unsigned s, CUstream st_, void **p, void **x) {
    return 0;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **x) { return 0; }
CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e,
                                   unsigned g, unsigned s, CUstream st_, void **p) {
    return 0;
}
CUresult cuLinkCreate_v2(unsigned n, CUjit_option *o, void **v, CUlinkState *s) { return 1; }
CUresult cuLinkAddData_v2(CUlinkState s, CUjitInputType t, void *d, size_t z, const char *n, unsigned k,
                          CUjit_option *o, void **v) {
    return 1;
}
CUresult cuLinkComplete(CUlinkState s, void **c, size_t *z) { return 1; }
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int b, size_t s) {
    *n = 2;
    return 0;
}
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) {
    *n = 60;
    return 0;
}
CUresult cuPointerGetAttribute(void *d, CUpointer_attribute a, CUdeviceptr p) {
    if (a == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr *)d = p;
    else if (a == CU_POINTER_ATTRIBUTE_CONTEXT) *(CUcontext *)d = ctx();
    else if (a == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) *(unsigned *)d = is_device((void *)p) ? 2 : 1;
    else *(int *)d = 0;
    return 0;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap *t, CUtensorMapDataType dt, cuuint32_t r, void *g,
                                const cuuint64_t *a, const cuuint64_t *b, const cuuint32_t *c,
                                const cuuint32_t *d, CUtensorMapInterleave i, CUtensorMapSwizzle s,
                                CUtensorMapL2promotion l, CUtensorMapFloatOOBfill o) {
    memset(t, 0, sizeof *t);
    return 0;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *s, size_t n) {
    copy((void *)d, s, n);
    return 0;
}
CUresult cuMemcpyDtoH_v2(void *d, CUdeviceptr s, size_t n) {
    copy(d, (void *)s, n);
    return 0;
}
CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) {
    *p = (CUdeviceptr)device_alloc(n);
    return 0;
}
CUresult cuMemFree_v2(CUdeviceptr p) {
    device_free((void *)p);
    return 0;
}
CUresult cuMemsetD32Async(CUdeviceptr p, unsigned v, size_t n, CUstream s) { return 0; }
CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream s) { return 0; }
CUresult cuMemGetInfo_v2(size_t *f, size_t *t) {
    cudaMemGetInfo(f, t);
    return 0;
}
CUresult cuStreamWriteValue32_v2(CUstream s, CUdeviceptr p, cuuint32_t v, unsigned f) { return 0; }
CUresult cuStreamSynchronize(CUstream s) { return 0; }
CUresult cuStreamGetCtx(CUstream s, CUcontext *c) {
    *c = ctx();
    return 0;
}
CUresult cuGetProcAddress_v2(const char *s, void **p, int v, cuuint64_t f,
                             CUdriverProcAddressQueryResult *r) {
    enum cudaDriverEntryPointQueryResult q;
    cudaGetDriverEntryPointByVersion(s, p, v, f, &q);
    if (r) *r = *p ? 0 : 1;
    return *p ? 0 : 500;
}
CUresult cuCtxSetLimit(CUlimit l, size_t v) { return 0; }
CUresult cuCtxGetLimit(size_t *v, CUlimit l) {
    *v = 1 << 20;
    return 0;
}
