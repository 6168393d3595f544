#!/usr/bin/env bash
# Pictures, sound and film by the tools that write them. Argument: the folder below which <class>/<origin>/ are made.

# shellcheck source=tests/accuracy/corpus/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

MADE=$1
work=$(mktemp -d)
picture=$MADE/images audio=$MADE/audio video=$MADE/video documents=$MADE/documents

films() {
    local length name options
    # Half a second of a moving test picture and of a rising tone; and six seconds.
    for length in 0.5 6; do
        ffmpeg -v error -y -f lavfi -i "testsrc2=size=176x144:rate=25:duration=$length" -f lavfi \
            -i "aevalsrc=0.3*sin(700*t*t)|0.3*sin(900*t):s=44100:d=$length" -c:v ffv1 -c:a pcm_s16le "$work/in.nut"
        while read -r name options; do
            # shellcheck disable=SC2086  # options are words
            attempt "$video/ffmpeg/$length-$name" ffmpeg -v error -y -i "$work/in.nut" -flags +bitexact \
                -fflags +bitexact $options "$video/ffmpeg/$length-$name"
        done <<'FILMS'
h264.mp4
faststart.mp4 -movflags +faststart
fragmented.mp4 -movflags frag_keyframe+empty_moov
dash.mp4 -movflags +dash
mpeg4.mp4 -c:v mpeg4 -brand mp42
isom.mp4 -c:v mpeg4 -brand isom
h264.mov
prores.mov -c:v prores
mjpeg.mov -c:v mjpeg
h264.m4v -an
3gp.3gp -c:v h263 -c:a aac -ar 8000 -ac 1
3g2.3g2 -c:v mpeg4 -c:a aac
f4v.f4v
ismv.ismv
psp.psp -f psp
ipod.m4v -f ipod
h264.mkv
vp8.mkv -c:v libvpx -c:a libvorbis
subtitled.mkv -c:v mpeg4 -metadata title=long
vp8.webm -c:v libvpx -c:a libvorbis
vp9.webm -c:v libvpx-vp9 -c:a libopus -deadline realtime -cpu-used 8
mpeg4.avi
mjpeg.avi -c:v mjpeg -c:a pcm_s16le
ffv1.avi -c:v ffv1 -c:a pcm_s16le
mpeg1.mpg
mpeg2.mpg -c:v mpeg2video
dvd.vob -target pal-dvd
svcd.mpg -target pal-svcd
mpeg1.m1v -f mpeg1video -an
mpeg2.m2v -f mpeg2video -an
h264.ts
mpeg2.ts -c:v mpeg2video
m2ts.m2ts -mpegts_m2ts_mode 1
flv1.flv
h264.flv -c:v h264
wmv.wmv
wmv1.wmv -c:v wmv1
asf.asf -c:v msmpeg4
theora.ogv
theora.ogg -c:v libtheora -c:a libvorbis
swf.swf -c:v flv -c:a mp3
rm.rm -c:v rv10 -c:a ac3
mxf.mxf -c:v mpeg2video -ar 48000
opatom.mxf -f mxf_opatom -c:v dnxhd -s 1920x1080 -pix_fmt yuv422p -b:v 120M -an -frames:v 5
gxf.gxf -c:v mpeg2video -s 720x576 -ar 48000 -ac 1
nut.nut -c:v mpeg4 -c:a mp2
dv.dv -target pal-dv
raw.h264 -c:v libx264 -an
raw.hevc -c:v libx265 -an -x265-params log-level=none
hevc.mp4 -c:v libx265 -tag:v hvc1 -x265-params log-level=none
raw.h263 -s 176x144 -c:v h263 -an
raw.m4v -f m4v -an
raw.mjpeg -f mjpeg -an
y4m.y4m -pix_fmt yuv420p -an -frames:v 5
ivf.ivf -c:v libvpx -an
av1.ivf -c:v libaom-av1 -cpu-used 8 -an -frames:v 3
av1.mp4 -c:v libaom-av1 -cpu-used 8 -an -frames:v 3
gif.gif -an
apng.apng -an -plays 0 -frames:v 8
webp.webp -an -frames:v 8
roq.roq -s 176x144 -r 30 -ar 22050
film.cpk -f film_cpk -c:v cinepak -frames:v 10
wtv.wtv -c:v mpeg2video -c:a mp2
hls.m3u8 -f hls
srt.mkv -c:v copy -c:a copy
a64.a64 -an
obu.obu -c:v libaom-av1 -cpu-used 8 -an -frames:v 3
vc2.drc -c:v vc2 -pix_fmt yuv420p -an -frames:v 5
qtrle.mov -c:v qtrle
cavs.filmstrip -f filmstrip -pix_fmt rgba -an -frames:v 2
FILMS
    done
}

sounds() {
    local length name options
    for length in 0.2 3 20; do
        while read -r name options; do
            # shellcheck disable=SC2086
            attempt "$audio/ffmpeg/$length-$name" ffmpeg -v error -y -f lavfi \
                -i "aevalsrc=0.3*sin(700*t*t)+0.1*random(0):s=44100:d=$length" -flags +bitexact -fflags +bitexact \
                -metadata title="A tone" $options "$audio/ffmpeg/$length-$name"
        done <<'SOUNDS'
pcm.wav
float.wav -c:a pcm_f32le
adpcm.wav -c:a adpcm_ms
ulaw.wav -c:a pcm_mulaw
mp3.wav -c:a libmp3lame
bext.wav -write_bext 1
rf64.wav -rf64 always
w64.w64
aiff.aiff
tagged.aiff -write_id3v2 1
aifc.aifc -f aiff -c:a pcm_mulaw
caf.caf
alac.caf -c:a alac
au.au
ulaw.au -c:a pcm_mulaw
flac.flac
ogg.flac.ogg -c:a flac -f ogg
vorbis.ogg
opus.opus
opus.ogg -c:a libopus
speex.spx -c:a libspeex
mp3.mp3
mp3-plain.mp3 -id3v2_version 0 -write_xing 0
mp3-v1.mp3 -id3v2_version 0 -write_id3v1 1
mp3-24.mp3 -id3v2_version 4
mp3-22k.mp3 -ar 22050 -b:a 32k
mp3-8k.mp3 -ar 8000 -id3v2_version 0
mp2.mp2
ac3.ac3 -ac 2
eac3.eac3 -ac 2
dts.dts -c:a dca -strict -2 -ac 2 -ar 48000
truehd.thd -c:a truehd -strict -2 -ac 2
mlp.mlp -c:a mlp -strict -2 -ac 2
aac.aac
aac.m4a
alac.m4a -c:a alac
book.m4b -f ipod
latm.latm -f latm -c:a aac
g722.g722
gsm.gsm -ar 8000 -ac 1
voc.voc
wma.wma
wmapro.asf -c:a wmav1
ra.ra -c:a real_144 -f rm -ar 8000 -ac 1
tta.tta
wv.wv
sbc.sbc
aptx.aptx
sox.sox
ircam.sf -f ircam
mka.mka -c:a libvorbis
weba.weba -f webm
codec2.c2 -ar 8000 -ac 1 -c:a libcodec2
swf.swf -c:a mp3
daud.302 -ac 6 -ar 96000 -c:a pcm_s24daud
adx.adx
crc.txt -f crc
framecrc.txt -f framecrc
ffmeta.txt -f ffmetadata
SOUNDS
    done
    for name in 8svx aifc amb amr-nb au avr cdr cvsd dvms fap fssd gsm gsrt hcom htk ima ircam lpc10 mat4 \
        mat5 maud nist paf prc pvf sd2 sf sln smp snd sndr sndt sou sox sph txw vms voc vorbis vox w64 wav wve xi; do
        attempt "$audio/sox/a.$name" sox -R -n -r 8000 -c 1 -b 16 -t "$name" "$audio/sox/a.$name" synth 1.5 sine 300-3000
        attempt "$audio/sox/b.$name" sox -R -n -r 22050 -c 1 -t "$name" "$audio/sox/b.$name" synth 8 pinknoise vol 0.3
    done
    ffmpeg -v error -y -f lavfi -i "sine=d=4" "$work/a.wav"
    attempt "$audio/tools/a.flac" flac -s -o "$audio/tools/a.flac" "$work/a.wav"
    attempt "$audio/tools/ogg.oga" flac -s --ogg -o "$audio/tools/ogg.oga" "$work/a.wav"
    attempt "$audio/tools/tags.mp3" lame --quiet --add-id3v2 --tt title --pad-id3v2-size 100000 "$work/a.wav" "$audio/tools/tags.mp3"
    attempt "$audio/tools/pad20k.mp3" lame --quiet --add-id3v2 --tt title --pad-id3v2-size 20000 "$work/a.wav" "$audio/tools/pad20k.mp3"
    attempt "$audio/tools/a.ogg" oggenc -Q -o "$audio/tools/a.ogg" "$work/a.wav"
    attempt "$audio/tools/a.opus" opusenc --quiet "$work/a.wav" "$audio/tools/a.opus"
    attempt "$audio/tools/a.wv" wavpack -q "$work/a.wav" -o "$audio/tools/a.wv"
}

pictures() {
    local size name in
    for size in 16x16 120x90 250x200; do
        in=$work/$size.png
        convert -size "$size" -seed 5 plasma:tomato-steelblue -depth 8 "$in"
        # Whatever the list of formats says can be written.
        for name in $(convert -list format | awk '$3 ~ /^.w/ || $2 ~ /^.w/ {sub(/\*$/, "", $1); print tolower($1)}' | sort -u); do
            case $name in
                # Devices, films (ffmpeg makes these), and what only names another format.
                x | win | clip* | show | preview | null | info | print | scan* | ephemeral | inline | mpr | tmp | data | \
                    histogram | uil | screenshot | *video | avi | mkv | mov | mp4 | mpg | mpeg | m2v | m4v | wmv | webm | \
                    3gp | 3g2 | flv | apng | brf | ubrl* | isobrl* | hald | plasma | magick | matte | mask | thumbnail) continue ;;
                # What Debian's policy for ImageMagick forbids (Ghostscript makes these), and what fails.
                ai | ep* | ps | ps2 | ps3 | pdf* | xps | jpt | mvg | picon | pocketmod | rgf) continue ;;
            esac
            attempt "$picture/imagemagick/$size.$name" convert "$in" "$name:$picture/imagemagick/$size.$name"
        done
        for name in avs bmp cin dcx dib dpx eps fax fits gif jng jpeg mat mng mono mpc mtv otb p7 pam pcd pcx \
            pdb pgm pict png8 ppm ptif ras sgi sun tga tiff uyvy vicar viff wbmp xbm xpm xwd yuv; do
            attempt "$picture/graphicsmagick/$size.$name" gm convert "$in" "$name:$picture/graphicsmagick/$size.$name"
        done
        pngtopnm "$in" >"$work/in.ppm" 2>/dev/null
        pnmquant 64 "$work/in.ppm" >"$work/in64.ppm" 2>/dev/null || cp "$work/in.ppm" "$work/in64.ppm"
        ppmtopgm "$work/in.ppm" >"$work/in.pgm" 2>/dev/null
        pamditherbw "$work/in.pgm" 2>/dev/null | pamtopnm >"$work/in.pbm" 2>/dev/null
        local from
        for from in ppm64:ppmtogif ppm64:ppmtoilbm ppm:ppmtojpeg ppm64:ppmtopcx ppm64:ppmtopict ppm64:ppmtoxpm ppm64:ppmtobmp \
            ppm:ppmtotga ppm64:ppmtowinicon ppm64:ppmtosixel ppm:ppmtopj ppm64:ppmtopjxl ppm64:ppmtopuzz ppm:ppmtoyuv ppm:ppmtoleaf \
            ppm:ppmtomitsu ppm64:ppmtoacad ppm:ppmtoeyuv ppm:pnmtosgi ppm:pnmtops ppm:pnmtorast \
            ppm:pnmtojpeg ppm:pnmtopng ppm:pnmtotiff ppm:pnmtotiffcmyk ppm:pnmtoxwd ppm:pnmtopclxl \
            ppm:pnmtoddif ppm:pnmtosir ppm:pamtotga ppm:pamtofits ppm:pamtopng ppm64:pamtowinicon ppm:pamtosvg ppm64:pamtogif \
            ppm:pamtoavs ppm:pamtohdiff ppm:pamtoxvmini pgm:pgmtolispm pgm:pgmtofs pgm:pgmtosbig \
            pbm:pbmtoxbm pbm:pbmtog3 pbm:pbmtomacp pbm:pbmtolj pbm:pbmtopi3 pbm:pbmtoatk pbm:pbmtocmuwm pbm:pbmtoepson \
            pbm:pbmtogem pbm:pbmtogo pbm:pbmtoicon pbm:pbmtolps pbm:pbmtomda pbm:pbmtomgr pbm:pbmtoplot \
            pbm:pbmtopsg3 pbm:pbmtowbmp pbm:pbmtox10bm pbm:pbmtozinc pbm:pbmtoybm pbm:pbmtobbnbg \
            pbm:pbmto10x pbm:pbmto4425 pbm:pbmtoascii pbm:pbmtodjvurle pbm:pbmtosunicon pbm:pbmtoescp2; do
            local file=$work/in.${from%%:*}
            [[ $from == ppm64:* ]] && file=$work/in64.ppm
            attempt "$picture/netpbm/$size.${from#*:}" bash -c "${from#*:} <'$file' >'$picture/netpbm/$size.${from#*:}'"
        done
        attempt "$picture/tools/$size.webp" cwebp -quiet "$in" -o "$picture/tools/$size.webp"
        attempt "$picture/tools/$size-lossless.webp" cwebp -quiet -lossless "$in" -o "$picture/tools/$size-lossless.webp"
        attempt "$picture/tools/$size.heic" heif-enc "$in" -o "$picture/tools/$size.heic"
        attempt "$picture/tools/$size.avif" avifenc -s 10 "$in" "$picture/tools/$size.avif"
        attempt "$picture/tools/$size.jxl" cjxl -e 3 "$in" "$picture/tools/$size.jxl"
        attempt "$picture/tools/$size-box.jxl" cjxl -e 3 --container=1 "$in" "$picture/tools/$size-box.jxl"
        for name in jp2 j2k; do
            attempt "$picture/tools/$size-opj.$name" opj_compress -n 3 -i "$in" -o "$picture/tools/$size-opj.$name"
        done
        attempt "$picture/tools/$size.jbg" bash -c "pbmtojbg <'$work/in.pbm' >'$picture/tools/$size.jbg'"
        for name in lzw zip packbits lzma zstd; do
            attempt "$picture/tiff/$size-$name.tif" tiffcp -c "$name" "$picture/imagemagick/$size.tiff" "$picture/tiff/$size-$name.tif"
        done
        attempt "$picture/tiff/$size-big.tif" tiffcp -8 "$picture/imagemagick/$size.tiff" "$picture/tiff/$size-big.tif"
        attempt "$picture/tiff/$size-be.tif" tiffcp -B "$picture/imagemagick/$size.tiff" "$picture/tiff/$size-be.tif"
    done
    # Large ones of the common kinds, with comments and profiles that push the picture back.
    local number comment
    for number in 1 2 3; do
        convert -size "$((number * 700))x600" -seed "$number" plasma: -depth 8 "$work/large.png"
        comment=$(head -c $((number * 25000)) /dev/zero | tr '\0' c)
        for name in jpg png gif bmp tiff webp psd ppm tga jp2 pcx xpm sgi; do
            attempt "$picture/large/$number.$name" convert "$work/large.png" -set comment "$comment" "$picture/large/$number.$name"
        done
    done
}

prints() {
    local device file
    cat >"$work/a.ps" <<'PS'
%!PS-Adobe-3.0
/Helvetica findfont 20 scalefont setfont
1 1 12 { 72 700 moveto (Page ) show 3 string cvs show 72 600 moveto 300 0 rlineto stroke showpage } for
PS
    for device in pdfwrite ps2write pxlmono pxlcolor laserjet ljet2p ljet3 ljet4 deskjet cdeskjet cdj550 pcl3 bmpmono bmp16 bmp256 \
        bmp16m png16m pngmono pnggray pngalpha jpeg jpegcmyk tiffg3 tiffg4 tiffgray tiff24nc tiff32nc tifflzw tiffpack pcxmono \
        pcx256 pcx24b pbm pbmraw pgm pgmraw ppm ppmraw pkm pamcmyk32 faxg3 faxg32d faxg4 epson epsonc eps9high ibmpro txtwrite \
        xpswrite cups spotcmyk bit bitrgb bitcmyk cfax dfaxhigh mgrmono mgr8 miff24 lbp8 imagen jetp3852 \
        la50 ln03 m8510 necp6 okiibm paintjet pj pjxl r4081 tek4696 t4693d4 stcolor; do
        file=$documents/ghostscript/a.$device
        attempt "$file" gs -q -dNOPAUSE -dBATCH -dSAFER -r50 -dLastPage=2 -sDEVICE="$device" -sOutputFile="$file" "$work/a.ps"
        # Raw pixels are large, and one page of them is as good as two.
        if [[ -e $file && $(stat -c %s "$file") -gt 700000 ]]; then truncate -s 700000 "$file"; fi
    done
    for device in 1.2 1.3 1.4 1.5 1.6 1.7; do
        attempt "$documents/ghostscript/v$device.pdf" gs -q -dNOPAUSE -dBATCH -dCompatibilityLevel="$device" -sDEVICE=pdfwrite \
            -sOutputFile="$documents/ghostscript/v$device.pdf" "$work/a.ps"
    done
    printf '.TH X 1\n.SH NAME\nx \\- y\n.PP\nSome text.\n' >"$work/x.1"
    for device in ps dvi lj4 html ascii utf8 latin1 xhtml pdf; do
        attempt "$documents/groff/x.$device" bash -c "groff -man -T$device '$work/x.1' >'$documents/groff/x.$device'"
    done
    printf '#FIG 3.2\nLandscape\nCenter\nInches\nLetter\n100.00\nSingle\n-2\n1200 2\n2 1 0 1 0 7 50 -1 -1 0.000 0 0 -1 0 0 2\n\t 1 1 900 900\n' >"$work/a.fig"
    for device in box cgm dxf epic eps ibmgl latex mf mp pdf pic pict2e pictex ps pstricks svg textyl tikz tk tpic gbx emf; do
        attempt "$documents/fig/a.$device" fig2dev -L "$device" "$work/a.fig" "$documents/fig/a.$device"
    done
}

films
sounds
pictures
prints
rm -rf -- "$work"
