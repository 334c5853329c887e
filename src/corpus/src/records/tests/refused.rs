use super::*;

#[test]
fn files_without_records_are_refused_by_name_with_what_to_do() {
    let wide = |text: &str, encode: &dyn Fn(u16) -> Vec<u8>| text.encode_utf16().flat_map(encode).collect::<Vec<u8>>();
    let utf16 = wide("[{\"a\": 1}]", &|unit| unit.to_le_bytes().to_vec());
    let utf16_big = wide("[{\"a\": 1}]", &|unit| unit.to_be_bytes().to_vec());
    let utf32 = wide("[{\"a\": 1}]", &|unit| u32::from(unit).to_le_bytes().to_vec());
    let safetensors = [&100_u64.to_le_bytes()[..], b"{\"a\":{\"dtype\""].concat();
    let mut tar = vec![b'a'; 600];
    tar[257..262].copy_from_slice(b"ustar");
    for (content, what, hint) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"[..],
            "pointer of git LFS",
            "git lfs pull",
        ),
        (b"PK\x03\x04\x14\0", "zip archive", "unpack"),
        (b"<!DOCTYPE html><html>", "web page", "download the file itself"),
        (b"\n<HTML>", "web page", "download the file itself"),
        (b"\xFF\xFE[\0", "UTF-16", "iconv -f UTF-16 "),
        (b"\xFE\xFF\0[", "UTF-16", "iconv -f UTF-16 "),
        (&utf16, "UTF-16", "UTF-16LE"),
        (&utf16_big, "UTF-16", "UTF-16BE"),
        (b"\xFF\xFE\0\0[\0\0\0", "UTF-32", "iconv"),
        (&utf32, "UTF-32", "UTF-32LE"),
        (b"\xFD7zXZ\0\0", "xz", "unxz"),
        (b"BZh91AY", "bzip2", "bunzip2"),
        (b"7z\xBC\xAF\x27\x1C\0", "7z", "7z x"),
        (b"\x80\x04\x95", "pickle", "JSON lines"),
        (&safetensors, "safetensors", "tensors"),
        (b"%PDF-1.7", "PDF", "JSON lines"),
        (b"SQLite format 3\0", "SQLite", "JSON lines"),
        (b"Salted__abcdefgh", "encrypted", "decrypt"),
        (b"PARE", "encrypted Parquet", "decrypt"),
        (b"\x01\x02\x03\0{}\0", "is no text", "JSON lines"),
        (b"", "is empty", "copy it again"),
        (&tar, "tar archive", "tar -x"),
    ] {
        let text = refusal("some.json", content);
        let (message, told) = text.split_once("\nhint: ").expect("a hint");
        assert!(message.contains("some.json ") && message.contains(what), "{text}");
        assert!(told.contains(hint), "{text}");
    }
}

#[test]
fn a_table_with_line_ends_of_carriage_returns_is_refused() {
    let text = refusal("a.csv", b"a,b\r1,2\r");
    assert!(text.contains("a.csv has the line ends of old Macintosh files\nhint: convert its line ends: tr"), "{text}");
    assert!(read_as("a.csv", b"a,b\r\n1,2\r\n", 1000).is_ok());
}
