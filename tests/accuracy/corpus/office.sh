#!/usr/bin/env bash
# Office documents by LibreOffice: every format that it can write, of documents short and long, with pictures and
# without (office.py). Argument: the folder below which <class>/<origin>/ are made.

# shellcheck source=tests/accuracy/corpus/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

MADE=$1
sources=$(mktemp -d)
python3 "$HERE/office.py" "$sources"

# convert CLASS KIND EXTENSION[:FILTER]...: one process a format converts all documents of the kind.
convert() {
    local class=$1 kind=$2 format extension folder
    shift 2
    for format in "$@"; do
        extension=${format%%:*}
        folder=$MADE/$class/libreoffice-$kind
        mkdir -p "$folder/new"
        timeout 300 soffice --headless --norestore -env:UserInstallation=file:///tmp/libreoffice \
            --convert-to "$format" --outdir "$folder/new" "$sources/$kind"*.fod? >/tmp/soffice.log 2>&1 </dev/null || true
        local made=0 file
        for file in "$folder/new"/*; do
            [[ -s $file ]] || continue
            # Two filters may share an extension: the filter's name keeps them apart.
            mv "$file" "$folder/$(basename "${file%.*}")$(tr -cd '[:alnum:]' <<<"${format#"$extension"}").$extension"
            made=$((made + 1))
        done
        rm -rf "$folder/new"
        [[ $made -gt 0 ]] || not_made "$kind as $format (LibreOffice)"
    done
}

convert office text doc docx odt rtf ott dotx:"MS Word 2007 XML Template" docm:"MS Word 2007 XML VBA" \
    docx:"Office Open XML Text" xml:"MS Word 2003 XML" uot dot
convert documents text pdf epub
convert documents text pdf:writer_pdf_Export:'{"SelectPdfVersion":{"type":"long","value":"2"}}'
convert markup text html xhtml fodt
convert text text txt txt:"Text (encoded):UTF16"
convert office sheet xls xlsx ods xlt ots xlsm:"Calc MS Excel 2007 VBA XML" xlsx:"Calc Office Open XML" \
    xml:"MS Excel 2003 XML" uos xltx:"Calc MS Excel 2007 XML Template"
convert data sheet csv slk dif
convert markup sheet html fods
convert documents sheet pdf
convert office slides ppt pptx odp pot otp pps ppsx:"Impress MS PowerPoint 2007 XML AutoPlay" \
    pptm:"Impress MS PowerPoint 2007 XML VBA" potm uop
convert documents slides pdf
convert markup slides fodp
convert office drawing odg otg
convert images drawing emf wmf svg eps png jpg gif tiff bmp webp
convert documents drawing pdf
convert markup drawing fodg
cp "$sources"/*.fod? "$MADE/markup/libreoffice-text/"
rm -rf -- "$sources"
