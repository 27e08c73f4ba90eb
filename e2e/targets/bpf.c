/* BPF maps. */
#include "common.h"

#include <linux/bpf.h>

static int bpf(int command, union bpf_attr *attr) {
    return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int make_map(unsigned type, unsigned value_size, unsigned flags, const char *name) {
    union bpf_attr attr = {.map_type = type, .key_size = 4, .value_size = value_size, .max_entries = 100,
                           .map_flags = flags};
    strncpy(attr.map_name, name, sizeof attr.map_name - 1);
    int map = bpf(BPF_MAP_CREATE, &attr);
    if (map == -1)
        skip("bpf: %s", strerror(errno));
    return map;
}

static int set(int map, unsigned key, const void *value) {
    union bpf_attr attr = {.map_fd = (unsigned)map, .key = (uintptr_t)&key, .value = (uintptr_t)value};
    return bpf(BPF_MAP_UPDATE_ELEM, &attr);
}

static int get(int map, unsigned key, void *value) {
    union bpf_attr attr = {.map_fd = (unsigned)map, .key = (uintptr_t)&key, .value = (uintptr_t)value};
    return bpf(BPF_MAP_LOOKUP_ELEM, &attr);
}

static struct bpf_map_info look(int map) {
    struct bpf_map_info info = {0};
    union bpf_attr attr = {.info = {.bpf_fd = (unsigned)map, .info_len = sizeof info, .info = (uintptr_t)&info}};
    WORKS(bpf(BPF_OBJ_GET_INFO_BY_FD, &attr));
    return info;
}

TARGET(bpf_maps) {
    int hash = make_map(BPF_MAP_TYPE_HASH, 24, BPF_F_NO_PREALLOC, "a_hash");
    int array = make_map(BPF_MAP_TYPE_ARRAY, 8, 0, "an_array");
    int empty = make_map(BPF_MAP_TYPE_HASH, 8, BPF_F_WRONLY, "");
    for (unsigned i = 0; i < 60; i++) {
        char value[24];
        fill(value, sizeof value, i);
        MUST(set(hash, i * 7919, value));
        uint64_t square = (uint64_t)i * i;
        MUST(set(array, i, &square));
    }
    union bpf_attr attr = {.map_id = look(hash).id, .open_flags = BPF_F_RDONLY};
    int reading = MUST(bpf(BPF_MAP_GET_FD_BY_ID, &attr));
    attr = (union bpf_attr){.map_fd = (unsigned)array};
    MUST(bpf(BPF_MAP_FREEZE, &attr));
    ready();
    await_go();

    struct bpf_map_info info = look(hash);
    EQUAL(info.type, BPF_MAP_TYPE_HASH);
    EQUAL(info.map_flags, BPF_F_NO_PREALLOC);
    EQUAL(info.max_entries, 100);
    CHECK(strcmp(info.name, "a_hash") == 0);
    EQUAL(look(reading).id, info.id);
    char value[24];
    for (unsigned i = 0; i < 60; i++) {
        WORKS(get(reading, i * 7919, value));
        CHECK(filled(value, sizeof value, i));
        uint64_t square;
        WORKS(get(array, i, &square));
        EQUAL(square, (uint64_t)i * i);
    }
    FAILS(get(hash, 1, value), ENOENT);
    fill(value, sizeof value, 1000);
    FAILS(set(reading, 1, value), EPERM);
    WORKS(set(hash, 1, value));
    WORKS(get(reading, 1, value));
    CHECK(filled(value, sizeof value, 1000));
    FAILS(set(array, 1, value), EPERM);
    FAILS(get(empty, 1, value), EPERM);
    WORKS(set(empty, 1, value));
    return done();
}

/* Refused: such a map does not give back what is in it. */
TARGET(bpf_queue) {
    union bpf_attr attr = {.map_type = BPF_MAP_TYPE_QUEUE, .value_size = 8, .max_entries = 4};
    int map = bpf(BPF_MAP_CREATE, &attr);
    if (map == -1)
        skip("bpf: %s", strerror(errno));
    ready();
    await_go();
    uint64_t value = 5;
    attr = (union bpf_attr){.map_fd = (unsigned)map, .value = (uintptr_t)&value};
    WORKS(bpf(BPF_MAP_UPDATE_ELEM, &attr));
    return done();
}
