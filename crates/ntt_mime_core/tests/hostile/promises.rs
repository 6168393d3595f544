//! What the detector promises on any content at all. Shared by the test and the fuzz targets.

use ntt_mime_core::detector::{Detector, DetectorConfig, Steps};

/// Detectors that are kept over many contents, as a backend keeps its own.
pub struct Promises {
    /// As the extension has it.
    detector: Detector,
    /// With the shortest head there is.
    short: Detector,
    /// Without the prefilter, and one look at everything, as file(1) does it.
    whole: Detector,
}

impl Promises {
    pub fn new() -> Promises {
        let detector = |head_bytes, steps, prefilter| {
            let config = DetectorConfig {
                head_bytes,
                prefilter,
            };
            let mut detector = Detector::with_steps(config, steps).expect("libmagic is installed");
            detector.prepare();
            detector
        };
        Promises {
            detector: detector(16 * 1024, Steps::IN_USE, true),
            short: detector(0, Steps::IN_USE, true),
            whole: detector(usize::MAX, Steps::HEAD, false),
        }
    }

    /// Panics if a promise is broken. libmagic may say that content is beyond it, and nothing else may
    /// go wrong.
    pub fn keep(&mut self, content: &[u8]) {
        let whole = self.whole.detect_bytes(content);
        let Ok(detection) = self.detector.detect_bytes(content) else {
            assert!(whole.is_err());
            return;
        };
        let size = content.len() as u64;
        assert!(detection.bytes_read <= size);
        assert!(detection.bytes_read >= size.min(16 * 1024));
        assert!((1..=100).contains(&detection.reads) || size == 0);
        // One look sees all that there is, and so does whoever reads what rules look at, whatever he begins with. The
        // detectors have judged the same contents before this one, but looked at them otherwise: nothing of that may be
        // left in them.
        let mime_type = detection.mime_type;
        assert_eq!(mime_type, whole.expect("as the other did").mime_type);
        let short = self.short.detect_bytes(content);
        assert_eq!(mime_type, short.expect("as the other did").mime_type);
        assert!(mime_type.len() <= 255 && mime_type.contains('/'));
        assert!(mime_type.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}
