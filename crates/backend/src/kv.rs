//! The shape of a paged KV cache.

/// Tokens per page. A page holds the keys and values of these tokens in all layers.
pub const PAGE_LEN: usize = 64;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// Exact.
    F32,
    /// Half the bytes; relative error 2⁻¹¹.
    #[default]
    F16,
    /// 32 × i8 with an f16 scale, along the head: 8.5 bits a value. Needs a head size that is a multiple of 32.
    Q8_0,
}

impl KvFormat {
    /// Every choice, in the order that help texts show.
    pub const ALL: [KvFormat; 3] = [KvFormat::F16, KvFormat::F32, KvFormat::Q8_0];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
        }
    }

    /// Bytes of one head's key (or value) of one token.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            KvFormat::F32 => head_dim * 4,
            KvFormat::F16 => head_dim * 2,
            KvFormat::Q8_0 => head_dim / 32 * 34,
        }
    }
}

/// Sizes of a KV cache.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    /// Layers.
    pub n_layers: usize,
    /// KV heads, `g`.
    pub n_kv_heads: usize,
    /// Head size, `hd`.
    pub head_dim: usize,
    /// How values are stored.
    pub format: KvFormat,
    /// Pages at most.
    pub n_pages: usize,
}

impl KvShape {
    /// Bytes of one page: keys and values of [`PAGE_LEN`] tokens in all layers.
    pub fn page_bytes(&self) -> usize {
        self.n_layers * self.layer_bytes()
    }

    /// Bytes of one layer of one page.
    pub fn layer_bytes(&self) -> usize {
        2 * self.n_kv_heads * PAGE_LEN * self.format.head_bytes(self.head_dim)
    }

    /// Bytes of a cache of `context` tokens.
    pub fn bytes_at(&self, context: usize) -> u64 {
        context.div_ceil(PAGE_LEN) as u64 * self.page_bytes() as u64
    }
}
