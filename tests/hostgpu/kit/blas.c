/* cuBLAS and cuBLASLt: every call succeeds and computes nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>

#define NOTHING(name)                                                                                        \
    long name(void) { return 0; }

NOTHING(cublasCdotc_v2)
NOTHING(cublasCdotu_v2)
NOTHING(cublasCgelsBatched)
NOTHING(cublasCgemmStridedBatched)
NOTHING(cublasCgemm_v2)
NOTHING(cublasCgemv_v2)
NOTHING(cublasCgeqrfBatched)
NOTHING(cublasCgetrfBatched)
NOTHING(cublasCgetrsBatched)
NOTHING(cublasCtrsmBatched)
NOTHING(cublasCtrsm_v2)
NOTHING(cublasDdot_v2)
NOTHING(cublasDestroy_v2)
NOTHING(cublasDgelsBatched)
NOTHING(cublasDgemmStridedBatched)
NOTHING(cublasDgemm_v2)
NOTHING(cublasDgemv_v2)
NOTHING(cublasDgeqrfBatched)
NOTHING(cublasDgetrfBatched)
NOTHING(cublasDgetrsBatched)
NOTHING(cublasDotEx)
NOTHING(cublasDtrsmBatched)
NOTHING(cublasDtrsm_v2)
NOTHING(cublasGemmEx)
NOTHING(cublasGemmStridedBatchedEx)
NOTHING(cublasLtMatmul)
NOTHING(cublasLtMatmulDescDestroy)
NOTHING(cublasLtMatmulDescSetAttribute)
NOTHING(cublasLtMatmulPreferenceDestroy)
NOTHING(cublasLtMatmulPreferenceSetAttribute)
NOTHING(cublasLtMatrixLayoutDestroy)
NOTHING(cublasLtMatrixLayoutSetAttribute)
NOTHING(cublasSdot_v2)
NOTHING(cublasSetMathMode)
NOTHING(cublasSetPointerMode_v2)
NOTHING(cublasSetStream_v2)
NOTHING(cublasSetWorkspace_v2)
NOTHING(cublasSgelsBatched)
NOTHING(cublasSgemmEx)
NOTHING(cublasSgemmStridedBatched)
NOTHING(cublasSgemm_v2)
NOTHING(cublasSgemv_v2)
NOTHING(cublasSgeqrfBatched)
NOTHING(cublasSgetrfBatched)
NOTHING(cublasSgetrsBatched)
NOTHING(cublasStrsmBatched)
NOTHING(cublasStrsm_v2)
NOTHING(cublasZdotc_v2)
NOTHING(cublasZdotu_v2)
NOTHING(cublasZgelsBatched)
NOTHING(cublasZgemmStridedBatched)
NOTHING(cublasZgemm_v2)
NOTHING(cublasZgemv_v2)
NOTHING(cublasZgeqrfBatched)
NOTHING(cublasZgetrfBatched)
NOTHING(cublasZgetrsBatched)
NOTHING(cublasZtrsmBatched)
NOTHING(cublasZtrsm_v2)

/* Those that give something back. */
long cublasCreate_v2(void **h) {
    *h = malloc(8);
    return 0;
}
long cublasGetMathMode(void *h, int *m) {
    *m = 0;
    return 0;
}
long cublasGetPointerMode_v2(void *h, int *m) {
    *m = 0;
    return 0;
}
long cublasLtGetVersion(void) { return 130100; }
long cublasLtMatmulDescCreate(void **d, int a, int b) {
    *d = malloc(64);
    return 0;
}
long cublasLtMatrixLayoutCreate(void **d) {
    *d = malloc(64);
    return 0;
}
long cublasLtMatmulPreferenceCreate(void **d) {
    *d = malloc(64);
    return 0;
}
long cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *A, void *B, void *C, void *D, void *p, int n,
                                    void *r, int *c) {
    *c = 1;
    return 0;
}
