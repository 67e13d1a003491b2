//! A small tree of XML elements: what moto answers is read, mended and written again.

use quick_xml::Reader;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::writer::Writer;

/// An element. Text between elements is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Without a namespace's prefix.
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    /// What is in it, if there are no elements in it.
    pub(super) text: String,
    /// The elements in it.
    pub(super) children: Vec<Element>,
}

impl Element {
    /// One that has text only.
    pub(super) fn leaf(name: &str, text: impl Into<String>) -> Self {
        Self { name: name.to_owned(), text: text.into(), ..Self::default() }
    }

    /// One that has others only.
    pub(super) fn node(name: &str, children: Vec<Self>) -> Self {
        Self { name: name.to_owned(), children, ..Self::default() }
    }

    /// Reads a document.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader::from_reader(bytes);
        let mut open = vec![Self::default()];
        let (mut text, mut buffer) = (String::new(), Vec::new());
        loop {
            buffer.clear();
            match reader.read_event_into(&mut buffer).map_err(|error| error.to_string())? {
                Event::Start(start) => {
                    text.clear();
                    open.push(Self::opened(&start)?);
                }
                Event::Empty(start) => {
                    let element = Self::opened(&start)?;
                    open.last_mut().expect("the document is open").children.push(element);
                }
                Event::Text(piece) => {
                    text.push_str(&piece.xml10_content().map_err(|error| error.to_string())?)
                }
                Event::GeneralRef(reference) => text.push_str(&resolve(&reference)?),
                Event::CData(piece) => text.push_str(&String::from_utf8_lossy(&piece)),
                Event::End(_) => {
                    let mut element = open.pop().expect("what ends was open");
                    let text = std::mem::take(&mut text);
                    if element.children.is_empty() {
                        element.text = text;
                    }
                    open.last_mut().ok_or("it ends more than it opens")?.children.push(element);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let mut document = open.pop().ok_or("it is empty")?;
        if document.children.len() != 1 || !open.is_empty() {
            return Err("it is no XML document".to_owned());
        }
        Ok(document.children.remove(0))
    }

    fn opened(start: &BytesStart<'_>) -> Result<Self, String> {
        let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
        let attributes = start.attributes().map(|attribute| {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = String::from_utf8_lossy(&attribute.value).into_owned();
            Ok((String::from_utf8_lossy(attribute.key.as_ref()).into_owned(), value))
        });
        Ok(Self { name, attributes: attributes.collect::<Result<_, String>>()?, ..Self::default() })
    }

    /// The document, as bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        self.write(&mut writer).expect("memory can be written");
        writer.into_inner()
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let mut start = BytesStart::new(&self.name);
        for (key, value) in &self.attributes {
            start.push_attribute((key.as_bytes(), value.as_bytes()));
        }
        writer.write_event(Event::Start(start))?;
        if self.children.is_empty() {
            writer.write_event(Event::Text(BytesText::new(&self.text)))?;
        }
        self.children.iter().try_for_each(|child| child.write(writer))?;
        writer.write_event(Event::End(BytesEnd::new(&self.name)))
    }

    /// What is at a path below it: `placement/availabilityZone`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('/')
            .try_fold(self, |element, name| element.children.iter().find(|child| child.name == name))
    }

    /// The text at a path below it; empty if there is none.
    pub(super) fn text_at(&self, path: &str) -> &str {
        self.at(path).map(|element| element.text.as_str()).unwrap_or_default()
    }

    /// The elements of a list below it: those within `reservationSet`.
    pub(super) fn items(&self, path: &str) -> &[Self] {
        self.at(path).map(|element| &element.children[..]).unwrap_or_default()
    }

    /// Every element below it, itself too, that is asked for; changes made to it are kept.
    pub(super) fn visit(&mut self, change: &mut dyn FnMut(&mut Self)) {
        change(self);
        self.children.iter_mut().for_each(|child| child.visit(change));
    }
}

fn resolve(reference: &quick_xml::events::BytesRef<'_>) -> Result<String, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character.to_string());
    }
    let name = String::from_utf8_lossy(reference);
    let known = quick_xml::escape::resolve_predefined_entity(&name);
    known.map(str::to_owned).ok_or_else(|| format!("`&{name};` is unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        let text = r#"<a xmlns="x"><b>1 &lt; 2 &amp; &#65;</b><c><d>e</d></c><f></f></a>"#;
        let read = Element::parse(text.as_bytes()).unwrap();
        assert_eq!(read.text_at("b"), "1 < 2 & A");
        assert_eq!(read.text_at("c/d"), "e");
        let written = String::from_utf8(read.to_bytes()).unwrap();
        assert_eq!(written, r#"<a xmlns="x"><b>1 &lt; 2 &amp; A</b><c><d>e</d></c><f></f></a>"#);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in ["", "<a>", "text", "<a/><b/>"] {
            assert!(Element::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
