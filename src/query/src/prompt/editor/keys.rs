//! The keys behind the bytes that a terminal sends.

use std::collections::VecDeque;

use raisin_base::error::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Letter(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Up,
    Down,
    KillToStart,
    KillToEnd,
    KillWord,
    Clear,
    GiveUp,
    EndOrDelete,
    Unknown,
}

/// Reads keys from standard input.
#[derive(Default)]
pub struct TerminalKeys {
    bytes: VecDeque<u8>,
}

impl TerminalKeys {
    /// The next key; `None` if the terminal is gone.
    pub fn next(&mut self) -> Result<Option<Key>> {
        let mut from_terminal = || -> Result<Option<u8>> {
            let mut read = [0; 1024];
            if self.bytes.is_empty() {
                let count = loop {
                    match rustix::io::read(std::io::stdin(), &mut read) {
                        Err(rustix::io::Errno::INTR) => {}
                        // The other side of a pseudo-terminal was closed.
                        Err(rustix::io::Errno::IO) => break 0,
                        result => break result?,
                    }
                };
                self.bytes.extend(&read[..count]);
            }
            Ok(self.bytes.pop_front())
        };
        decode(&mut from_terminal)
    }
}

fn decode(next: &mut dyn FnMut() -> Result<Option<u8>>) -> Result<Option<Key>> {
    let Some(first) = next()? else { return Ok(None) };
    Ok(Some(match first {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x01 => Key::Home,
        0x02 => Key::Left,
        0x03 => Key::GiveUp,
        0x04 => Key::EndOrDelete,
        0x05 => Key::End,
        0x06 => Key::Right,
        0x08 | 0x7f => Key::Backspace,
        0x0b => Key::KillToEnd,
        0x0c => Key::Clear,
        0x0e => Key::Down,
        0x10 => Key::Up,
        0x15 => Key::KillToStart,
        0x17 => Key::KillWord,
        0x1b => escape(next)?,
        control if control < 0x20 => Key::Unknown,
        _ => letter(first, next)?,
    }))
}

/// A letter of one to four bytes of UTF-8.
fn letter(first: u8, next: &mut dyn FnMut() -> Result<Option<u8>>) -> Result<Key> {
    let length = match first {
        0x00..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf8 => 4,
        _ => return Ok(Key::Unknown),
    };
    let mut bytes = vec![first];
    while bytes.len() < length {
        let Some(byte) = next()? else { return Ok(Key::Unknown) };
        bytes.push(byte);
    }
    let letter = std::str::from_utf8(&bytes).ok().and_then(|text| text.chars().next());
    Ok(letter.map_or(Key::Unknown, Key::Letter))
}

/// The key behind an escape sequence, such as `ESC [ 1 ; 5 D`.
fn escape(next: &mut dyn FnMut() -> Result<Option<u8>>) -> Result<Key> {
    Ok(match next()? {
        Some(b'b') => Key::WordLeft,
        Some(b'f') => Key::WordRight,
        Some(0x7f) => Key::KillWord,
        Some(b'[' | b'O') => {
            let mut parameters = Vec::new();
            loop {
                match next()? {
                    Some(byte @ (b'0'..=b'9' | b';')) => parameters.push(byte),
                    Some(last) => return Ok(sequence(&parameters, last)),
                    None => return Ok(Key::Unknown),
                }
            }
        }
        _ => Key::Unknown,
    })
}

fn sequence(parameters: &[u8], last: u8) -> Key {
    let is_with_control = parameters.ends_with(b";5") || parameters.ends_with(b";3");
    match (last, parameters) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) if is_with_control => Key::WordRight,
        (b'D', _) if is_with_control => Key::WordLeft,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', b"1" | b"7") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8") => Key::End,
        (b'~', b"3") => Key::Delete,
        _ => Key::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_terminal_become_keys() {
        let mut bytes: VecDeque<u8> = "aé€\u{1b}[A\u{1b}[1;5D\u{1b}[3~\u{1b}OH\u{3}\r".bytes().collect();
        let mut keys = Vec::new();
        while let Some(key) = decode(&mut || Ok(bytes.pop_front())).unwrap() {
            keys.push(key);
        }
        let letters = ['a', 'é', '€'].map(Key::Letter);
        let others = [Key::Up, Key::WordLeft, Key::Delete, Key::Home, Key::GiveUp, Key::Enter];
        assert_eq!(keys, [letters.as_slice(), &others].concat());
    }
}
