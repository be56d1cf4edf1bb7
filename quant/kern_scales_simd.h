/* SPDX-License-Identifier: Apache-2.0 */
/* kern_scales_simd.h - scales and minima of a block of R rows, for every vector level.
 *
 * The including file defines R, the type vf (R floats), vf_set, vf_mul, and load_half, load_u8,
 * load_i8 (R values as floats). The layout is kern_impl.h's. */

INLINE bool halves(const struct kern_shape s)
{
    return s.scales == KERN_K16 || s.scales == KERN_K16M;
}

struct scales {
    vf scale[2], min[2];
};

INLINE struct scales load_scales(const struct kern_shape s, vf d, vf dmin, const uint8_t *p)
{
    struct scales w;
    w.scale[0] = w.scale[1] = w.min[0] = w.min[1] = vf_set(0);
    switch (s.scales) {
    case KERN_D:
        w.scale[0] = load_half(p);
        break;
    case KERN_DM:
        w.scale[0] = load_half(p);
        w.min[0] = load_half(p + 2 * R);
        break;
    case KERN_KDM:
        w.scale[0] = vf_mul(d, load_u8(p));
        w.min[0] = vf_mul(dmin, load_u8(p + R));
        break;
    case KERN_K32:
        w.scale[0] = vf_mul(d, load_i8(p));
        break;
    case KERN_K16:
        w.scale[0] = vf_mul(d, load_i8(p));
        w.scale[1] = vf_mul(d, load_i8(p + R));
        break;
    case KERN_K16M: /* the sums come times -32: so do not the minima */
        w.scale[0] = vf_mul(d, load_u8(p));
        w.scale[1] = vf_mul(d, load_u8(p + R));
        dmin = vf_mul(dmin, vf_set(-0x1p-5f));
        w.min[0] = vf_mul(dmin, load_u8(p + 2 * R));
        w.min[1] = vf_mul(dmin, load_u8(p + 3 * R));
        break;
    }
    return w;
}
