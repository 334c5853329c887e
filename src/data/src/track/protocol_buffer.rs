//! What the files of trackers have in common: protocol buffers under construction, and checksums of records.

/// A protocol buffer under construction. Each method adds a field by its number.
#[derive(Default)]
pub struct ProtocolBuffer(Vec<u8>);

impl ProtocolBuffer {
    pub fn integer(&mut self, field: u32, value: i64) {
        self.key(field, 0);
        self.varint(value as u64);
    }

    pub fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    /// Texts and bytes.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    pub fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub fn message(&mut self, field: u32, value: &Self) {
        self.bytes(field, &value.0);
    }

    pub fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The polynomial of a CRC of 32 bits, its lowest bit first.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Checksum {
    /// CRC-32C, of Castagnoli.
    Castagnoli = 0x82f6_3b78,
    /// The CRC-32 of zip files.
    Zip = 0xedb8_8320,
}

impl Checksum {
    /// Bit by bit: a file has some thousand numbers.
    pub fn of<'b>(self, bytes: impl IntoIterator<Item = &'b u8>) -> u32 {
        let mut sum = u32::MAX;
        for byte in bytes {
            sum ^= u32::from(*byte);
            for _ in 0..8 {
                sum = if sum & 1 == 1 { sum >> 1 ^ self as u32 } else { sum >> 1 };
            }
        }
        !sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        // RFC 3720, appendix B.4.
        assert_eq!(Checksum::Castagnoli.of(b"123456789"), 0xe306_9283);
        assert_eq!(Checksum::Castagnoli.of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(Checksum::Castagnoli.of(&[0xff; 32]), 0x62a8_ab43);
        // The check value of CRC-32 in ISO 3309.
        assert_eq!(Checksum::Zip.of(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn integers_have_seven_bits_in_a_byte() {
        let mut message = ProtocolBuffer::default();
        message.integer(2, 300);
        assert_eq!(message.as_bytes(), [0x10, 0xac, 0x02]);
    }
}
