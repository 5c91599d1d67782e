/* What the fake runtime and driver share: memory that counts as the device's, and what the device is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#pragma once
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define TOTAL_BYTES (143771ull << 20) /* what an H200 has */

/* FAKECUDA_DEBUG=1 tells what is loaded, looked up and captured. */
#define TELL(...) (getenv("FAKECUDA_DEBUG") ? (void)fprintf(stderr, "[fakecuda] " __VA_ARGS__) : (void)0)

#pragma GCC visibility push(hidden) /* the libraries are preloaded: no other one shall find these names */

extern char symbols[1 << 20]; /* where every variable of a module is */

void *
device_alloc(size_t bytes); /* NULL where the machine gives none; aligned to 2 MiB, as large pages are */
void device_free(void *address);
void *device_reserve(size_t bytes); /* addresses without memory: who touches them ends as a fault */
void device_unreserve(void *address);
int device_back(void *address, size_t bytes, int is_backed); /* new memory there, or none; 0: no such addresses */
void device_take(long long bytes); /* counts as used; negative: no more */
size_t device_used(void);
int is_device(const void *address);

void host_add(void *address, size_t bytes); /* memory of the host that was pinned */
void host_remove(void *address);
int is_host(const void *address);

void copy(void *to, const void *from, size_t bytes); /* nothing where it is too large to be worth it */
void fill(void *at, int value, size_t bytes);

int attribute(int number); /* of the device: cudaDeviceAttr, which are CUdevice_attribute */

#pragma GCC visibility pop
