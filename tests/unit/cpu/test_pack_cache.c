/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights in files: the same numbers with and without, and nothing trusted that should
 * not be. */
#include "tests/unit/cpu/harness.h"

#include "base/clock.h"
#include "base/num.h"
#include "worker/cpu/pack_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_TOKENS 12U
#define PAGES    8U
#define WAIT_MS  20000

static char *folder; /* of this test: model.gguf, home/ */
static char model[200], cache[300];

/* ---- files --------------------------------------------------------------------------------- */

static void copy_file(const char *from, const char *to)
{
    struct buf b;
    struct err e = {0};
    buf_init(&b, 256U << 20);
    if (fs_read(&b, from, &e) || fs_write_atomic(to, b.data, b.len, &e))
        fail_msg("%s", e.msg);
    buf_fini(&b);
}

static void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    if (!d) {
        (void)unlink(path);
        return;
    }
    for (struct dirent *de; (de = readdir(d)) != NULL;) {
        if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0) {
            char *p = fs_join(path, de->d_name);
            remove_tree(p);
            free(p);
        }
    }
    closedir(d);
    (void)rmdir(path);
}

static uint32_t count(const char *dir, const char *suffix)
{
    uint32_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *de; d && (de = readdir(d)) != NULL;) {
        size_t len = strlen(de->d_name), k = strlen(suffix);
        n += len >= k && strcmp(de->d_name + len - k, suffix) == 0;
    }
    if (d)
        closedir(d);
    return n;
}

static void sleep_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

static void wait_files(const char *dir, uint32_t n)
{
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (count(dir, ".qpack") < n || count(dir, ".tmp") > 0) {
        if (clock_mono_ms() > end)
            fail_msg("%u files in %s instead of %u", count(dir, ".qpack"), dir, n);
        sleep_ms(5);
    }
}

static ino_t inode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

/* The file of one unit; "" for none. */
static void unit_path(const char *dir, const char *unit, char out[5000])
{
    DIR *d = opendir(dir);
    out[0] = '\0';
    for (struct dirent *de; d && (de = readdir(d)) != NULL;) {
        size_t n = strlen(unit);
        if (strncmp(de->d_name, unit, n) == 0 && de->d_name[n] == '.')
            snprintf(out, 5000, "%s/%s", dir, de->d_name);
    }
    if (d)
        closedir(d);
}

static int setup_with(char *from)
{
    static char name[] = "/tmp/quire-pack-XXXXXX";
    strcpy(name, "/tmp/quire-pack-XXXXXX");
    folder = mkdtemp(name);
    if (!folder)
        return -1;
    snprintf(model, sizeof model, "%s/model.gguf", folder);
    snprintf(cache, sizeof cache, "%s.qpack", model);
    char *home = fs_join(folder, "home");
    setenv("QUIRE_HOME", home, 1);
    free(home);
    copy_file(from, model);
    free(from);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return setup_with(strdup(QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf"));
}

/* Several types in one layer. */
static int setup_mixed(void **state)
{
    char *from = h_data("oracle/quants/mixed-Q4_K_M.gguf");
    return from ? setup_with(from) : setup(state);
}

static int teardown(void **state)
{
    (void)state;
    remove_tree(folder);
    return 0;
}

/* ---- runs ---------------------------------------------------------------------------------- */

struct run {
    struct model *model;
    struct stage *stage;
    uint32_t n_layers, n_vocab;
};

static void open_layers(struct run *r, enum pack_mode pack, uint32_t from, uint32_t to)
{
    struct err e = {0};
    memset(r, 0, sizeof *r);
    if (model_open(&r->model, model, &e) != 0)
        fail_msg("%s", e.msg);
    const struct model_hparams *h = model_hparams(r->model);
    r->n_layers = h->n_layers;
    r->n_vocab = h->n_vocab;
    to = NUM_MIN(to, h->n_layers);
    struct stage_config sc = {.model = r->model,
                              .layer_from = from,
                              .layer_to = to,
                              .embed = from == 0,
                              .head = to == h->n_layers,
                              .n_pages = PAGES,
                              .kv = KV_F16,
                              .max_tokens = N_TOKENS,
                              .max_seqs = 1,
                              .n_threads = 2,
                              .pack = pack};
    if (backend_cpu()->open(&r->stage, &sc, &e) != 0)
        fail_msg("%s", e.msg);
}

static void open_all(struct run *r, enum pack_mode pack)
{
    open_layers(r, pack, 0, UINT32_MAX);
}

static void close_run(struct run *r)
{
    stage_close(r->stage);
    model_close(r->model);
}

/* Logits of all positions; malloc'ed. */
static float *logits(struct run *r)
{
    uint32_t tokens[N_TOKENS], rows[N_TOKENS], pages[PAGES];
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        tokens[i] = (i * 31 + 7) % r->n_vocab;
        rows[i] = i;
    }
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = i;
    struct batch_seq seq = {0, N_TOKENS, N_TOKENS, pages};
    struct batch b = {.n_rows = N_TOKENS,
                      .tokens = tokens,
                      .seqs = &seq,
                      .n_seqs = 1,
                      .out_rows = rows,
                      .n_out = N_TOKENS};
    float *out = malloc((size_t)N_TOKENS * r->n_vocab * sizeof(float));
    assert_non_null(out);
    assert_int_equal(stage_run(r->stage, &b, out), 0);
    return out;
}

static float *logits_once(enum pack_mode pack, uint32_t *n_vocab)
{
    struct run r;
    open_all(&r, pack);
    float *out = logits(&r);
    *n_vocab = r.n_vocab;
    close_run(&r);
    return out;
}

static void check_logits(struct run *r, const float *want)
{
    float *got = logits(r);
    assert_memory_equal(got, want, (size_t)N_TOKENS * r->n_vocab * sizeof(float));
    free(got);
}

/* Does this process map files of the folder? */
static uint32_t mapped(const char *dir)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[5000];
    uint32_t n = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        n += strstr(line, dir) && strstr(line, ".qpack") && !strstr(line, ".tmp");
    fclose(f);
    return n;
}

static void wait_mapped(const struct run *r, const char *dir)
{
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (mapped(dir) < r->n_layers + 1) {
        if (clock_mono_ms() > end)
            fail_msg("%u files of %s are mapped", mapped(dir), dir);
        sleep_ms(5);
    }
}

/* Fill the cache; the number of files. */
static uint32_t fill(enum pack_mode pack)
{
    struct run r;
    open_all(&r, pack);
    uint32_t n = r.n_layers + 1;
    wait_files(cache, n);
    close_run(&r);
    return n;
}

static void test_same_bits(void **state)
{
    struct run r;
    uint32_t n_vocab;
    (void)state;
    float *want = logits_once(PACK_OFF, &n_vocab);
    assert_false(fs_exists(cache)); /* off leaves nothing */
    open_all(&r, PACK_ON);
    check_logits(&r, want);
    wait_files(cache, r.n_layers + 1);
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (mapped(cache) < r.n_layers + 1 && clock_mono_ms() < end) {
        check_logits(&r, want); /* also while its pages are exchanged */
    }
    assert_true(mapped(cache) >= r.n_layers + 1); /* shared, not private any more */
    check_logits(&r, want);
    close_run(&r);
    open_all(&r, PACK_ON);
    assert_true(mapped(cache) >= r.n_layers + 1);
    check_logits(&r, want);
    close_run(&r);
    open_all(&r, PACK_OFF);
    assert_int_equal(mapped(cache), 0);
    check_logits(&r, want);
    close_run(&r);
    open_all(&r, PACK_VERIFY);
    assert_true(mapped(cache) >= r.n_layers + 1);
    check_logits(&r, want);
    close_run(&r);
    free(want);
}

static void test_small_models_leave_none(void **state)
{
    struct run r;
    (void)state;
    unsetenv("QUIRE_PACK_CACHE");
    open_all(&r, PACK_DEFAULT);
    close_run(&r);
    assert_false(fs_exists(cache));
    setenv("QUIRE_PACK_CACHE", "on", 1);
    open_all(&r, PACK_DEFAULT);
    wait_files(cache, r.n_layers + 1);
    close_run(&r);
    setenv("QUIRE_PACK_CACHE", "sometimes", 1);
    struct err e = {0};
    enum pack_mode mode = PACK_DEFAULT;
    assert_int_equal(pack_mode_resolve(&mode, &e), Q_EINVAL);
    unsetenv("QUIRE_PACK_CACHE");
}

/* Same size, but another time, and then another weight: the contents tell. */
static void test_stale_source(void **state)
{
    struct run r;
    uint32_t n_vocab;
    struct stat st;
    char path[5000], head[5000];
    (void)state;
    fill(PACK_ON);
    unit_path(cache, "blk.0", path);
    unit_path(cache, "output", head);
    ino_t old = inode_of(path), old_head = inode_of(head);
    assert_int_equal(stat(model, &st), 0);

    /* Touched, same contents: nothing is packed, and the stamp is renewed. */
    struct timespec times[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
    assert_int_equal(utimensat(AT_FDCWD, model, times, 0), 0);
    open_all(&r, PACK_ON);
    assert_true(mapped(cache) >= r.n_layers + 1);
    close_run(&r);
    assert_int_equal(inode_of(path), old);
    unsigned char page[PACK_HEADER_BYTES];
    struct pack_head h;
    struct err e = {0};
    struct stat fst;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &fst) == 0);
    assert_int_equal(pread(fd, page, sizeof page, 0), sizeof page);
    close(fd);
    assert_int_equal(pack_head_read(&h, page, sizeof page, (uint64_t)fst.st_size, &e), 0);
    assert_true(h.stamped);
    assert_true(h.stamp.mtime_ns == UINT64_C(1000000) * 1000000000u);

    /* One weight of layer 0 changes: that layer is packed anew, the output is not. */
    struct model *m;
    assert_int_equal(model_open(&m, model, &e), 0);
    const struct gguf_tensor *t = gguf_tensor(model_gguf(m), "blk.0.ffn_down.weight");
    assert_non_null(t);
    off_t at = (off_t)(t->file_offset + t->bytes / 2);
    model_close(m);
    unsigned char byte;
    fd = open(model, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x15;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    float *want = logits_once(PACK_OFF, &n_vocab);
    open_all(&r, PACK_ON);
    check_logits(&r, want);
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (inode_of(path) == old && clock_mono_ms() < end)
        sleep_ms(5);
    close_run(&r);
    assert_true(inode_of(path) != old);
    assert_int_equal(inode_of(head), old_head);
    open_all(&r, PACK_ON);
    check_logits(&r, want);
    close_run(&r);
    free(want);
}

static void damage(const char *path, off_t at)
{
    unsigned char byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0xff;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void test_damaged_files(void **state)
{
    static const off_t places[] = {0, 9, 33, 50, 70, 100, 4040};
    struct run r;
    uint32_t n_vocab;
    char path[5000];
    struct stat st;
    (void)state;
    float *want = logits_once(PACK_OFF, &n_vocab);
    fill(PACK_ON);
    unit_path(cache, "blk.0", path);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        damage(path, places[i]);
        open_all(&r, PACK_ON);
        check_logits(&r, want);
        wait_mapped(&r, cache);
        close_run(&r);
    }
    assert_int_equal(stat(path, &st), 0);
    const off_t sizes[] = {0, 100, PACK_PAYLOAD_AT, st.st_size - 1, st.st_size + 4096};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(truncate(path, sizes[i]), 0);
        open_all(&r, PACK_ON);
        check_logits(&r, want);
        wait_mapped(&r, cache);
        close_run(&r);
        struct stat now;
        assert_int_equal(stat(path, &now), 0);
        assert_int_equal(now.st_size, st.st_size);
    }
    /* A damaged payload is noticed when asked. */
    ino_t old = inode_of(path);
    damage(path, PACK_PAYLOAD_AT + 77);
    open_all(&r, PACK_VERIFY);
    check_logits(&r, want);
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (inode_of(path) == old && clock_mono_ms() < end)
        sleep_ms(5);
    close_run(&r);
    open_all(&r, PACK_ON);
    check_logits(&r, want);
    close_run(&r);
    /* What others may write is not trusted, nor is a link. */
    assert_int_equal(chmod(path, 0666), 0);
    open_all(&r, PACK_ON);
    check_logits(&r, want);
    close_run(&r);
    free(want);
}

/* Beside the model is no place: the cache goes below QUIRE_HOME. A file in the way works for
 * every user, also one who may write anywhere. */
static void test_home_folder(void **state)
{
    struct run r;
    uint32_t n_vocab;
    struct err e = {0};
    (void)state;
    assert_int_equal(fs_write_atomic(cache, "x", 1, &e), 0);
    float *want = logits_once(PACK_OFF, &n_vocab);
    open_all(&r, PACK_ON);
    char *home = fs_home(), *all = fs_join(home, "qpack");
    wait_mapped(&r, all);
    close_run(&r);
    open_all(&r, PACK_ON);
    assert_true(mapped(all) >= r.n_layers + 1);
    check_logits(&r, want);
    close_run(&r);
    free(want);
    free(all);
    free(home);
}

/* Runs in a child, whose mounts and limits are its own. Exit 77: not allowed here. */
static void in_child(int (*fn)(void))
{
    pid_t pid = fork();
    int status;
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(fn());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int mount_small(const char *at, const char *options, unsigned long flags)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "", MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", at, "tmpfs", flags, options) != 0)
        return 77;
    return 0;
}

static int with_no_room(void)
{
    struct run r;
    uint32_t n_vocab;
    int rc = mkdir(cache, 0755) || mkdir(getenv("QUIRE_HOME"), 0755);
    if (rc || (rc = mount_small(cache, "size=64k", 0)))
        return rc;
    if (mount("none", getenv("QUIRE_HOME"), "tmpfs", 0, "size=64k") != 0)
        return 77;
    float *want = logits_once(PACK_OFF, &n_vocab);
    for (int i = 0; i < 2; i++) {
        open_all(&r, PACK_ON);
        check_logits(&r, want);
        sleep_ms(50);
        close_run(&r);
    }
    free(want);
    return count(cache, "") > 2 ? 1 : 0; /* . and .. */
}

static int with_read_only(void)
{
    struct run r;
    int rc = mkdir(cache, 0755);
    if (rc || (rc = mount_small(cache, "size=64k", MS_RDONLY)))
        return rc;
    char *home = fs_join(getenv("QUIRE_HOME"), "qpack");
    open_all(&r, PACK_ON);
    wait_mapped(&r, home);
    close_run(&r);
    free(home);
    return 0;
}

/* The system cuts a file in the middle of writing it. */
static int with_file_limit(void)
{
    struct rlimit small = {PACK_PAYLOAD_AT + 4096, PACK_PAYLOAD_AT + 4096};
    struct run r;
    uint32_t n_vocab;
    float *want = logits_once(PACK_OFF, &n_vocab);
    if (setrlimit(RLIMIT_FSIZE, &small) != 0)
        return 77;
    open_all(&r, PACK_ON);
    check_logits(&r, want);
    sleep_ms(200);
    check_logits(&r, want);
    close_run(&r);
    free(want);
    return count(cache, ".tmp") > 0;
}

static void test_no_room(void **state)
{
    (void)state;
    in_child(with_no_room);
}

static void test_read_only(void **state)
{
    (void)state;
    in_child(with_read_only);
}

static void test_file_limit(void **state)
{
    (void)state;
    in_child(with_file_limit);
}

static int write_and_wait(void)
{
    struct run r;
    open_all(&r, PACK_ON);
    wait_files(cache, r.n_layers + 1);
    wait_mapped(&r, cache);
    close_run(&r);
    return 0;
}

/* Several processes fill one cache at once, and all end up mapping it. */
static void test_two_processes(void **state)
{
    pid_t pids[3];
    struct run r;
    uint32_t n_vocab;
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0)
            _exit(write_and_wait());
    }
    for (size_t i = 0; i < 3; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    float *want = logits_once(PACK_OFF, &n_vocab);
    open_all(&r, PACK_ON);
    assert_true(mapped(cache) >= r.n_layers + 1);
    check_logits(&r, want);
    close_run(&r);
    free(want);
}

/* Shards with different layers: one cache, of which each maps its part. */
static void test_split(void **state)
{
    struct run a, b;
    (void)state;
    open_all(&a, PACK_OFF);
    uint32_t n = a.n_layers;
    close_run(&a);
    assert_true(n >= 2);
    open_layers(&a, PACK_ON, 0, n / 2);
    open_layers(&b, PACK_ON, n / 2, n);
    wait_files(cache, n + 1);
    close_run(&a);
    close_run(&b);
    open_layers(&a, PACK_ON, n / 2, n);
    assert_int_equal(mapped(cache), n - n / 2 + 1);
    close_run(&a);
    open_all(&a, PACK_ON);
    assert_int_equal(mapped(cache), n + 1);
    close_run(&a);
}

/* A killed writer leaves nothing that is trusted, and its rests go away. */
static void test_killed(void **state)
{
    struct run r;
    uint32_t n_vocab;
    (void)state;
    float *want = logits_once(PACK_OFF, &n_vocab);
    for (long us = 0; us < 20000; us += 2500) {
        remove_tree(cache);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            open_all(&r, PACK_ON);
            for (;;)
                pause();
        }
        while (!fs_exists(cache))
            sleep_ms(1);
        struct timespec ts = {0, us * 1000};
        nanosleep(&ts, NULL);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        open_all(&r, PACK_VERIFY);
        check_logits(&r, want);
        wait_files(cache, r.n_layers + 1);
        close_run(&r);
    }
    free(want);
}

/* What another version or a larger model left is removed by the next writer; what is not ours
 * stays. */
static void test_sweep(void **state)
{
    struct run r;
    struct err e = {0};
    char other[5000];
    static const char *const junk[] = {"blk.0.sse9.qpack", "blk.900.avx2.qpack",
                                       "output.ref.qpack.tmp"};
    (void)state;
    assert_int_equal(mkdir(cache, 0755), 0);
    for (size_t i = 0; i < 3; i++) {
        snprintf(other, sizeof other, "%s/%s", cache, junk[i]);
        assert_int_equal(fs_write_atomic(other, "old", 3, &e), 0);
    }
    snprintf(other, sizeof other, "%s/notes.txt", cache);
    assert_int_equal(fs_write_atomic(other, "mine", 4, &e), 0);
    open_all(&r, PACK_ON);
    wait_files(cache, r.n_layers + 1);
    wait_mapped(&r, cache);
    assert_int_equal(count(cache, ".qpack"), r.n_layers + 1);
    assert_true(fs_exists(other));
    close_run(&r);
}

/* Every byte of a header counts, and places outside the file are refused. */
static void test_header(void **state)
{
    struct pack_head h = {.isa = "ref", .n_mats = 2, .payload_bytes = 8192}, got;
    unsigned char page[PACK_HEADER_BYTES];
    struct err e = {0};
    (void)state;
    h.mats[1] = (struct pack_mat){.at = 4096, .bytes = 4096, .type = 12, .rows = 5, .cols = 256};
    h.stamp = (struct pack_stamp){1, 2, 3};
    uint64_t size = PACK_PAYLOAD_AT + 8192;
    pack_head_write(&h, page);
    assert_int_equal(pack_head_read(&got, page, sizeof page, size, &e), 0);
    assert_true(got.stamped);
    assert_memory_equal(&got.mats[1], &h.mats[1], sizeof h.mats[1]);
    assert_int_equal(pack_head_read(&got, page, sizeof page - 1, size, &e), Q_EINVAL);
    assert_int_equal(pack_head_read(&got, page, sizeof page, size - 1, &e), Q_EINVAL);
    assert_int_equal(pack_head_read(&got, page, sizeof page, 0, &e), Q_EINVAL);
    for (size_t i = 0; i < 64 + 2 * sizeof h.mats[0]; i++) {
        page[i] ^= 1;
        assert_int_equal(pack_head_read(&got, page, sizeof page, size, &e), Q_EINVAL);
        page[i] ^= 1;
    }
    page[4032] ^= 1; /* the stamp: contents decide then */
    assert_int_equal(pack_head_read(&got, page, sizeof page, size, &e), 0);
    assert_false(got.stamped);
    h.mats[1].bytes++; /* checksum right, place wrong */
    pack_head_write(&h, page);
    assert_int_equal(pack_head_read(&got, page, sizeof page, size, &e), Q_EINVAL);
    h.mats[1].at = UINT64_MAX - 10;
    pack_head_write(&h, page);
    assert_int_equal(pack_head_read(&got, page, sizeof page, size, &e), Q_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),
        cmocka_unit_test_setup_teardown(test_same_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_bits, setup_mixed, teardown),
        cmocka_unit_test_setup_teardown(test_small_models_leave_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stale_source, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_home_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_processes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_split, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
