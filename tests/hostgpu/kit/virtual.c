/* CUDA's virtual memory: addresses that are reserved, and memory that comes to them and goes. vLLM's sleep mode
 * is made of it. What was in memory that has gone is lost, and to touch it is a fault, as on a device.
 *
 * A mapping does not outlive its handle here: vLLM unmaps first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "memory.h"
#include <cuda.h>

#define GRANULARITY (2ull << 20)

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *p,
                                       CUmemAllocationGranularity_flags f) {
    *bytes = GRANULARITY;
    return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wanted,
                             unsigned long long f) {
    if (!bytes || bytes % GRANULARITY) return CUDA_ERROR_INVALID_VALUE;
    *address = (CUdeviceptr)device_reserve(bytes);
    return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
    device_unreserve((void *)address);
    return CUDA_SUCCESS;
}
/* A handle is the address of how many bytes it stands for. */
CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *p,
                     unsigned long long f) {
    if (!bytes || bytes % GRANULARITY) return CUDA_ERROR_INVALID_VALUE;
    if (device_used() + bytes > TOTAL_BYTES) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t *made = malloc(sizeof *made);
    *made = bytes;
    device_take(bytes);
    *handle = (CUmemGenericAllocationHandle)made;
    return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    size_t *made = (size_t *)handle;
    device_take(-(long long)*made);
    free(made);
    return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long f) {
    if (offset || bytes > *(size_t *)handle) return CUDA_ERROR_INVALID_VALUE;
    return device_back((void *)address, bytes, 1) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
    return device_back((void *)address, bytes, 0) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *d, size_t n) {
    return CUDA_SUCCESS;
}
