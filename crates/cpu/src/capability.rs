//! What this processor can do. Holding a token proves that the instructions exist.

/// Proof that AVX2, FMA and F16C exist on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Avx2 {
    /// Whether AVX-VNNI does too: products of bytes in one instruction.
    vnni: bool,
}

impl Avx2 {
    /// The proof, where the processor has the instructions.
    pub fn detect() -> Option<Avx2> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Some(Avx2 { vnni: is_x86_feature_detected!("avxvnni") });
        }
        None
    }

    /// Whether AVX-VNNI exists as well.
    pub fn vnni(self) -> bool {
        self.vnni
    }

    /// The same without AVX-VNNI: what most processors with AVX2 run.
    pub fn without_vnni(self) -> Avx2 {
        Avx2 { vnni: false }
    }
}
