//! What the detector promises on any content at all. Shared by the test and the fuzz targets.

use ntt_mime_core::detector::{Detector, DetectorConfig, Steps};

/// Detectors that are kept over many contents, as a backend keeps its own.
pub struct Promises {
    /// As the extension has it.
    detector: Detector,
    /// The same without its prefilter.
    all_rules: Detector,
    /// With the shortest first look there is.
    short: Detector,
    /// With one look at everything.
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
            all_rules: detector(16 * 1024, Steps::IN_USE, false),
            short: detector(0, Steps::IN_USE, true),
            whole: detector(usize::MAX, Steps::HEAD, false),
        }
    }

    /// Panics if a promise is broken. libmagic may say that content is beyond it, and nothing else may
    /// go wrong.
    pub fn keep(&mut self, content: &[u8]) {
        let with_all = self.all_rules.detect_bytes(content);
        let Ok(detection) = self.detector.detect_bytes(content) else {
            assert!(with_all.is_err());
            return;
        };
        let size = content.len() as u64;
        assert!(detection.bytes_read <= size);
        assert!(detection.bytes_read >= size.min(16 * 1024));
        assert!((1..=3).contains(&detection.reads) || size == 0);
        let mime_type = detection.mime_type;
        assert_eq!(mime_type, with_all.expect("as the other did").mime_type);
        assert!(mime_type.len() <= 255 && mime_type.contains('/'));
        assert!(mime_type.bytes().all(|byte| byte.is_ascii_graphic()));

        // One look sees all that there is, so there is no room for another answer. The other detector
        // has judged the same contents before this one, but looked at them otherwise: nothing of that
        // may be left in it.
        let whole = self.whole.detect_bytes(content).expect("as the other did");
        if content.len() <= 16 * 1024 {
            assert_eq!(mime_type, whole.mime_type);
        }
        self.keep_json(content, &whole.mime_type);
    }

    /// JSON is seen as such only from its end, and what can't be JSON needn't be read to the end. That
    /// decision must never be wrong in one direction, and libmagic decides in the other.
    fn keep_json(&mut self, content: &[u8], whole: &str) {
        let is_json = |mime_type: &str| mime_type == "application/json";
        let Ok(short) = self.short.detect_bytes(content) else {
            return;
        };
        assert_eq!(is_json(&short.mime_type), is_json(whole));
    }
}
