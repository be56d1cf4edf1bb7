/* SPDX-License-Identifier: Apache-2.0 */
/* pack_cache.h - packed weights in files, so that the next start maps them.
 *
 * MODEL.gguf.qpack/ beside the model, or $QUIRE_HOME/qpack/NAME-HASH/ when nothing can be written
 * there, has one file per unit and instruction set: "blk.7.avx512.qpack" holds the matrices of
 * layer 7, "output.avx512.qpack" the output matrix. So processes with different layer ranges fill
 * one cache, and each maps what it needs. Deleting the folder is always allowed.
 *
 *   0        header: magic, instruction set, per matrix its shape, layout, place and two hashes
 *            (of the bytes it was packed from, of the packed bytes), hash of all this
 *   4032     stamp: size, mtime and inode of the model when its contents were last compared
 *   2 MiB    packed matrices, as kern_mat wants them
 *
 * Trust: a file is written under another name, synced and renamed, so it is complete or absent.
 * Its header must have its hash, its size must match, its owner must be one who could change the
 * model as well. When the stamp equals the model's, the contents are taken to be; when not (or
 * when the model is younger than two seconds), the hashes of the model's bytes decide. The packed
 * bytes are only hashed when asked (PACK_VERIFY): kernels take any bytes, so a rotten disk gives
 * wrong numbers, as it would in the model itself.
 *
 * One thread at a time calls; several processes may. Nothing here fails a launch. */
#ifndef QUIRE_CPU_PACK_CACHE_H
#define QUIRE_CPU_PACK_CACHE_H

#include "base/err.h"
#include "base/hash.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACK_MAX_MATS     24
#define PACK_HEADER_BYTES 4096
#define PACK_PAYLOAD_AT   (2u << 20) /* so that 2 MiB pages can map it */

struct pack_stamp {
    uint64_t bytes, mtime_ns, inode;
};

struct pack_mat {
    uint8_t source[HASH_XXH3_BYTES], payload[HASH_XXH3_BYTES];
    uint64_t at, bytes; /* in the payload */
    uint64_t layout;    /* a number that changes with the layout of its panels */
    uint32_t type, panel_rows, rows, cols;
};

struct pack_head {
    char isa[16];
    uint32_t n_mats;
    uint64_t payload_bytes;
    struct pack_mat mats[PACK_MAX_MATS];
    struct pack_stamp stamp;
    bool stamped; /* the stamp can be read */
};

/* Header of a file of file_bytes from its first n bytes. Q_EINVAL unless every place lies inside
 * the file. A damaged stamp only clears `stamped`. */
Q_MUST_CHECK int pack_head_read(struct pack_head *h, const void *data, size_t n,
                                uint64_t file_bytes, struct err *e);
void pack_head_write(const struct pack_head *h, unsigned char page[PACK_HEADER_BYTES]);

struct pack_cache;

struct pack_cache_config {
    const char *model_path;
    struct pack_stamp stamp; /* of the model now */
    const char *isa;
    uint32_t n_layers; /* of the model */
    bool disk_only;    /* not on a file system in memory */
};

Q_MUST_CHECK int pack_cache_open(struct pack_cache **out, const struct pack_cache_config *cfg,
                                 struct err *e);
void pack_cache_close(struct pack_cache *c); /* NULL is fine */

/* The file of a unit that holds matrices of the wanted shapes and layouts: returns its fd, the
 * caller's, and what its header says. The caller compares source hashes unless *fresh. Negative:
 * there is none. */
int pack_cache_find(struct pack_cache *c, const char *unit, const struct pack_head *want,
                    struct pack_head *found, bool *fresh);
/* The contents were compared: put the model's stamp into the file. Best effort. */
void pack_cache_restamp(struct pack_cache *c, const char *unit, int fd);

/* Choose the folder to write to, with room for so many bytes, and clean it of what other
 * processes left and what no version reads. Negative: there is no such folder. */
Q_MUST_CHECK int pack_cache_prepare(struct pack_cache *c, uint64_t bytes, struct err *e);
/* Write a unit. Fills in payload hashes and the stamp. Returns its fd, the caller's; Q_EFULL when
 * another process is writing it now; Q_ECANCELLED when *stop became true. */
int pack_cache_store(struct pack_cache *c, const char *unit, struct pack_head *h,
                     const unsigned char *payload, const atomic_bool *stop, struct err *e);

#endif
