/* elf.c: what is asked of an object file after it was made: its symbols, and an archive with it as only member.
 *
 * Only the ELF that LLVM writes for x86_64 and aarch64 is read (64 bits, little-endian); all else is refused. The archive is
 * the System V form that GNU's and LLVM's linkers read: an index of global symbols, then the object. Dates and owners are zero,
 * so equal objects make equal archives.
 */
#include "codegen/codegen.h"

#include <string.h>

static uint64_t little(const char *p, int n) {
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--)
        v = v << 8 | (unsigned char)p[i];
    return v;
}

typedef struct Section {
    uint64_t type, at, size, link;
} Section;

/* Header e_shoff at 40, e_shnum at 60; a section header has 64 bytes. */
static bool section(const KdStr *o, uint64_t number, Section *s) {
    uint64_t table = little(o->s + 40, 8), count = little(o->s + 60, 2);
    if (number >= count || table > o->n || (o->n - table) / 64 <= number)
        return false;
    const char *h = o->s + table + 64 * number;
    *s = (Section){little(h + 4, 4), little(h + 24, 8), little(h + 32, 8), little(h + 40, 4)};
    return s->at <= o->n && s->size <= o->n - s->at;
}

static bool find_symbols(const KdStr *o, Section *symbols, Section *names) {
    for (uint64_t i = 0; i < little(o->s + 60, 2); i++)
        if (section(o, i, symbols) && symbols->type == 2) /* SHT_SYMTAB */
            return section(o, symbols->link, names) && names->size > 0 && o->s[names->at + names->size - 1] == 0;
    return false;
}

bool kd_object_symbols(KdContext *cx, const KdStr *o, KdSymbols *out) {
    Section symbols, names;
    *out = (KdSymbols){0};
    if (o->n < 64 || memcmp(o->s, "\177ELF\2\1", 6) != 0 || !find_symbols(o, &symbols, &names))
        return false;
    for (uint64_t i = 1; i < symbols.size / 24; i++) {
        const char *s = o->s + symbols.at + 24 * i;
        uint64_t name = little(s, 4);
        if ((unsigned char)s[4] >> 4 == 0 || name >= names.size) /* STB_LOCAL */
            continue;
        const char *text = o->s + names.at + name;
        if (little(s + 6, 2) == 0) /* SHN_UNDEF */
            kd_push(cx, &out->undefined, kd_intern_z(cx, text));
        else
            kd_push(cx, &out->defined, kd_intern_z(cx, text));
    }
    return true;
}

static void member(KdStr *out, const char *name, size_t size) {
    kd_str_printf(out, "%-16s%-12d%-6d%-6d%-8s%-10zu`\n", name, 0, 0, 0, "100644", size);
}

static void big_endian(KdStr *out, size_t v) {
    const char bytes[4] = {(char)(v >> 24), (char)(v >> 16), (char)(v >> 8), (char)v};
    kd_str_add(out, bytes, 4);
}

void kd_archive(const KdStr *object, const char *name, const KdSymbols *symbols, KdStr *out) {
    char field[17];
    size_t index = 4 + 4 * (size_t)symbols->defined.n;
    for (int i = 0; i < symbols->defined.n; i++)
        index += strlen(symbols->defined.v[i]) + 1;
    size_t padded = index + index % 2;
    snprintf(field, sizeof field, "%s/", strlen(name) <= 15 ? name : "net.o");
    kd_str_add(out, "!<arch>\n", 8);
    member(out, "/", padded);
    big_endian(out, (size_t)symbols->defined.n);
    for (int i = 0; i < symbols->defined.n; i++)
        big_endian(out, 8 + 60 + padded);
    for (int i = 0; i < symbols->defined.n; i++)
        kd_str_add(out, symbols->defined.v[i], strlen(symbols->defined.v[i]) + 1);
    kd_str_add(out, "", padded - index);
    member(out, field, object->n);
    kd_str_add(out, object->s, object->n);
    kd_str_add(out, "\n", object->n % 2);
}
