/* What the fake driver does not have: CUDA_ERROR_NOT_SUPPORTED. Without CUDA's headers, whose arguments
 * differ.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define REFUSED(name)                                                                                        \
    int name(void) { return 801; }

REFUSED(cuMemExportToShareableHandle)
REFUSED(cuMemRetainAllocationHandle)
REFUSED(cuCtxFromGreenCtx)
REFUSED(cuGreenCtxCreate)
REFUSED(cuGreenCtxDestroy)
REFUSED(cuGreenCtxStreamCreate)
REFUSED(cuDevSmResourceSplitByCount)
REFUSED(cuDeviceGetDevResource)
REFUSED(cuDevResourceGenerateDesc)
REFUSED(cuMulticastAddDevice)
REFUSED(cuMulticastBindMem)
REFUSED(cuMulticastCreate)
REFUSED(cuMulticastUnbind)
REFUSED(cuMemImportFromShareableHandle)
REFUSED(cuMemGetAllocationPropertiesFromHandle)
