/* SPDX-License-Identifier: Apache-2.0 */
/* kern_tile_simd.h - one quantised panel times any number of tokens, up to MAX_TILE at a time;
 * every vector level includes it once. Internal to quant/.
 *
 * The including file defines R, MAX_TILE (4), the type vf (R floats), vf_set, load_half,
 * rows_store(p, v, n), ask_ahead (a no-op where the CPU needs none), load_scales, and
 * block_mul: 32 columns for `tile` tokens whose blocks are a[t][b]. ASK_TOKENS: with more,
 * arithmetic takes longer than memory, and nothing is asked for. */

INLINE void shape_tile(const struct kern_shape s, const uint8_t *p, uint32_t cols, uint32_t n_rows,
                       const struct kern_act *acts, const unsigned tile, float *out, size_t ld_out)
{
    const uint32_t super = kern_super_cols(&s);
    const size_t scale_bytes = kern_scale_bytes(&s, R);
    const size_t block_bytes = scale_bytes + kern_code_bytes(&s, R), n_blocks = cols / 32;
    const size_t ahead = tile <= ASK_TOKENS ? kern_ahead() : 0;
    const struct kern_act *a[MAX_TILE];
    vf acc[MAX_TILE];
    UNROLL for (unsigned t = 0; t < tile; t++)
    {
        a[t] = acts + t * n_blocks;
        acc[t] = vf_set(0);
    }
    for (size_t b = 0; b < n_blocks;) {
        vf d = vf_set(0), dmin = vf_set(0);
        if (super > 32) {
            d = load_half(p);
            if (s.scales == KERN_KDM || s.scales == KERN_K16M)
                dmin = load_half(p + 2 * R);
            p += kern_head_bytes(&s, R);
        }
        for (uint32_t k = 0; k < super / 32; k++, b++, p += block_bytes) {
            if (ahead)
                ask_ahead(p, ahead, block_bytes);
            struct scales w = load_scales(s, d, dmin, p);
            block_mul(s, &w, p + scale_bytes, a, b, tile, acc);
        }
    }
    UNROLL for (unsigned t = 0; t < tile; t++) rows_store(out + t * ld_out, acc[t], n_rows);
}

/* Largest tiles first; the tile never changes a result. */
INLINE void shape_mul(const struct kern_shape s, const void *panel, uint32_t cols, uint32_t n_rows,
                      const struct kern_act *a, uint32_t n_tokens, float *out, size_t ld_out)
{
    while (n_tokens > 0) {
        const unsigned tile = n_tokens < MAX_TILE ? n_tokens : MAX_TILE;
        switch (tile) {
        case 4:
            shape_tile(s, panel, cols, n_rows, a, 4, out, ld_out);
            break;
        case 3:
            shape_tile(s, panel, cols, n_rows, a, 3, out, ld_out);
            break;
        case 2:
            shape_tile(s, panel, cols, n_rows, a, 2, out, ld_out);
            break;
        default:
            shape_tile(s, panel, cols, n_rows, a, 1, out, ld_out);
            break;
        }
        a += (size_t)(cols / 32) * tile;
        out += ld_out * tile;
        n_tokens -= tile;
    }
}
