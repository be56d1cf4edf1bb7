/* SPDX-License-Identifier: Apache-2.0 */
/* shard_main.h - `quire shard`: one shard as a child of the worker.
 *
 * stdin, JSON lines: first the configuration
 *   {"shard_id","epoch","model_uid","replica","index","n_shards","path","layer_from","layer_to",
 *    "n_ctx","n_pages","n_threads","pin_threads","kv_type","max_seqs","host",
 *    "pack_cache","chat_template","chat_template_language"}
 * then {"cmd":"link","peers":["host:port",...],"epoch":N} and {"cmd":"stop"}. The end of stdin
 * means that the worker died: the process ends at once.
 *
 * stdout, JSON lines: {"event":"progress","value":0.4},
 *   {"event":"loaded","address":"127.0.0.1:40123","mem_bytes":N},
 *   {"event":"ready"} (a head of several shards: after each successful link; all others: after
 *   loaded), {"event":"unlinked","message":...} when a linked shard was lost,
 *   {"event":"error","message":...}, after which the process ends with status 1.
 *
 * SIGTERM and "stop": what runs is ended with a clear status; exit 0 within 3 s. */
#ifndef QUIRE_ENGINE_SHARD_MAIN_H
#define QUIRE_ENGINE_SHARD_MAIN_H

int shard_main(int argc, char **argv);

#endif
