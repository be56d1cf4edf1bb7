/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/store/store.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

struct store {
    sqlite3 *db;
};

static int fail(const struct store *s, int rc, const char *what, struct err *e)
{
    if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED)
        return err_set(e, Q_EEXIST,
                       "another supervisor uses this home; set QUIRE_HOME to run a second one");
    return err_set(e, rc == SQLITE_NOMEM ? Q_ENOMEM : Q_EIO, "%s the state file: %s", what,
                   s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc));
}

int store_open(struct store **out, const char *path, struct err *e)
{
    /* EXCLUSIVE: the first write takes the lock and keeps it. NORMAL: after a power cut the last
     * transactions may be missing, never half there. */
    static const char *const setup =
        "PRAGMA locking_mode=EXCLUSIVE;"
        "PRAGMA journal_mode=WAL;"
        "PRAGMA synchronous=NORMAL;"
        "PRAGMA cache_size=-256;"
        "BEGIN IMMEDIATE;"
        "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"
        "CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, uid TEXT UNIQUE NOT NULL,"
        " json TEXT NOT NULL) STRICT;"
        "INSERT INTO meta VALUES ('schema', '1') ON CONFLICT DO NOTHING;"
        "COMMIT;";
    *out = NULL;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_timeout(s->db, 1000);
        rc = sqlite3_exec(s->db, setup, NULL, NULL, NULL);
    }
    if (rc != SQLITE_OK) {
        rc = fail(s, rc, "cannot open", e);
        err_prefix(e, rc, "%s", path);
        sqlite3_close(s->db);
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    sqlite3_close(s->db);
    free(s);
}

/* Run a statement with up to two texts; a row's first column is appended to value. */
static int run(struct store *s, const char *sql, const char *a, const char *b, struct buf *value,
               struct err *e)
{
    sqlite3_stmt *st;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL);
    if (rc != SQLITE_OK)
        return fail(s, rc, "cannot use", e);
    sqlite3_bind_text(st, 1, a, -1, SQLITE_STATIC);
    if (b)
        sqlite3_bind_text(st, 2, b, -1, SQLITE_STATIC);
    rc = sqlite3_step(st);
    int out = 0;
    if (rc == SQLITE_ROW && value)
        out = buf_put(value, sqlite3_column_text(st, 0), (size_t)sqlite3_column_bytes(st, 0));
    else if (rc == SQLITE_DONE && value)
        out = err_set(e, Q_ENOTFOUND, "nothing is stored under %s", a);
    else if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        out = fail(s, rc, "cannot write", e);
    sqlite3_finalize(st);
    return out;
}

int store_set(struct store *s, const char *key, const char *value, struct err *e)
{
    return run(s, "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
               key, value, NULL, e);
}

int store_get(struct store *s, const char *key, struct buf *value, struct err *e)
{
    return run(s, "SELECT value FROM meta WHERE key = ?1", key, NULL, value, e);
}

int store_model_put(struct store *s, const char *uid, const char *json, struct err *e)
{
    return run(s,
               "INSERT INTO models (uid, json) VALUES (?1, ?2)"
               " ON CONFLICT (uid) DO UPDATE SET json = ?2",
               uid, json, NULL, e);
}

int store_model_del(struct store *s, const char *uid, struct err *e)
{
    return run(s, "DELETE FROM models WHERE uid = ?1", uid, NULL, NULL, e);
}

int store_models(struct store *s,
                 void (*each)(void *ctx, const char *uid, const char *json, size_t n), void *ctx,
                 struct err *e)
{
    sqlite3_stmt *st;
    int rc = sqlite3_prepare_v2(s->db, "SELECT uid, json FROM models ORDER BY id", -1, &st, NULL);
    if (rc != SQLITE_OK)
        return fail(s, rc, "cannot read", e);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        each(ctx, (const char *)sqlite3_column_text(st, 0),
             (const char *)sqlite3_column_text(st, 1), (size_t)sqlite3_column_bytes(st, 1));
    int out = rc == SQLITE_DONE ? 0 : fail(s, rc, "cannot read", e);
    sqlite3_finalize(st);
    return out;
}
